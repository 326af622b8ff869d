"""The primitives as modules call them: on the backend that is preferred where they run, if they have it.

Within `kernels.vmapped.vmapping()` models may be mapped over by `torch.vmap`.
"""

from collections.abc import Callable
from functools import wraps
from typing import ParamSpec, TypeVar

from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

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
from archloom.kernels.vmapped import vmappable

P = ParamSpec("P")
R = TypeVar("R")


def served(function: Callable[P, R], *, weights: tuple[str, ...] = ()) -> Callable[P, R]:
    """The primitive with its backend chosen, unless the call names one; `weights` as in `vmappable`."""
    known, mapped = backends_of(function), vmappable(function, weights=weights)

    @wraps(function)
    def call(*arguments: P.args, **named: P.kwargs) -> R:
        wanted = preferred()
        named.setdefault("backend", wanted if wanted in known else "chunked")
        return mapped(*arguments, **named)

    return call


@vmappable
def unmasked_softmax(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Softmax attention of every query [B, T, H, K] to all keys [B, S, H, K], unscaled: [B, T, H, V]."""
    q, k, v = (each.transpose(1, 2) for each in (q, k, v))
    return scaled_dot_product_attention(q, k, v, scale=1.0).transpose(1, 2)


attention = served(attending.attention, weights=("bias", "lag_bias"))
attention_resolvent = served(attending.attention_resolvent)
delta_rule = served(resolving.delta_rule)
linear_attention = served(linear.linear_attention, weights=("bonus",))
local_linear = served(local.local_linear, weights=("ridge",))
long_convolution = served(long.long_convolution, weights=("filter",))
resolvent = served(resolving.resolvent)
selective_scan = served(scanning.selective_scan, weights=("rate",))
short_convolution = served(short.short_convolution, weights=("taps", "bias"))
sparse_state = served(sparse.sparse_state)
windowed_linear_attention = served(windowed.windowed_linear_attention)
windowed_resolvent = served(windowed.windowed_resolvent)
