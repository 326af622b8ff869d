"""The backends of the primitives, and what each needs.

    reference   the literal recurrence or dense form: the oracle, on any device
    chunked     plain PyTorch on chunks, on any device
    triton      kernels of our own: a CUDA device, or Triton's interpreter on the CPU where TRITON_INTERPRET=1 is set

The caller names one; none stands in for another. What is preferred where nobody names one is said around a block of
code, `with preferring("triton"):`.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from importlib.util import find_spec
from typing import Literal

from torch import Tensor

Backend = Literal["chunked", "reference", "triton"]

_preferred: ContextVar[Backend] = ContextVar("preferred backend", default="chunked")


@contextmanager
def preferring(backend: Backend) -> Iterator[None]:
    """Prefer a backend in a block of code; primitives that do not have it are served by "chunked"."""
    before = _preferred.set(backend)
    try:
        yield
    finally:
        _preferred.reset(before)


def preferred() -> Backend:
    """The backend that is preferred here."""
    return _preferred.get()


def interprets() -> bool:
    """Whether Triton kernels run in its interpreter, which must be decided before Triton is imported."""
    return os.environ.get("TRITON_INTERPRET", "0") == "1"


def unknown_backend(backend: str, *known: str) -> ValueError:
    """The error for a backend that a primitive does not have; `known` are those it has."""
    names = [f'"{name}"' for name in known or ("chunked", "reference")]
    return ValueError(f"backend is {backend!r}; expected {', '.join(names[:-1])} or {names[-1]}")


def require_triton(primitive: str, tensor: Tensor) -> None:
    """Raise ValueError unless Triton kernels can run on this tensor; the error says which backend can."""
    other = 'backend="chunked" serves any device'
    if find_spec("triton") is None:
        raise ValueError(f'{primitive}: backend="triton" needs Triton; pip install "archloom[gpu]", or {other}')
    if tensor.is_cuda or interprets():
        return
    raise ValueError(
        f'{primitive}: backend="triton" needs tensors on a CUDA device, given {tensor.device}; {other}'
        " (TRITON_INTERPRET=1 runs the kernels in Triton's interpreter, for tests)"
    )
