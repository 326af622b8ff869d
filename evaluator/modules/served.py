"""The primitives as modules call them: on the backend that is preferred where they run, if they have it."""

from collections.abc import Callable
from functools import wraps
from typing import ParamSpec, TypeVar

from archloom.kernels import attention as attending
from archloom.kernels import linear_attention as linear
from archloom.kernels import local_linear as local
from archloom.kernels import long_convolution as long
from archloom.kernels import resolvent as resolving
from archloom.kernels import selective_scan as scanning
from archloom.kernels import short_convolution as short
from archloom.kernels import sparse_state as sparse
from archloom.kernels import windowed
from archloom.kernels.backends import preferred
from archloom.kernels.table import backends_of

P = ParamSpec("P")
R = TypeVar("R")


def served(function: Callable[P, R]) -> Callable[P, R]:
    """The primitive with its backend chosen, unless the call names one."""
    known = backends_of(function)

    @wraps(function)
    def call(*arguments: P.args, **named: P.kwargs) -> R:
        wanted = preferred()
        named.setdefault("backend", wanted if wanted in known else "chunked")
        return function(*arguments, **named)

    return call


attention = served(attending.attention)
attention_resolvent = served(attending.attention_resolvent)
delta_rule = served(resolving.delta_rule)
linear_attention = served(linear.linear_attention)
local_linear = served(local.local_linear)
long_convolution = served(long.long_convolution)
resolvent = served(resolving.resolvent)
selective_scan = served(scanning.selective_scan)
short_convolution = served(short.short_convolution)
sparse_state = served(sparse.sparse_state)
windowed_linear_attention = served(windowed.windowed_linear_attention)
windowed_resolvent = served(windowed.windowed_resolvent)
