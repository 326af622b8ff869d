"""Convolution with taps of its own for every step, over a short band; see README.md."""

import torch
from torch import Tensor

from archloom.kernels.arguments import accumulator, check_alike, check_shape
from archloom.kernels.backends import Backend, require_triton, unknown_backend
from archloom.kernels.banded import chunked, reference

__all__ = ["banded"]

LAST_INPUT = "v"
"""The argument whose last values are the state."""


def banded(
    taps: Tensor,
    v: Tensor,
    *,
    initial_state: Tensor | None = None,
    return_state: bool = False,
    backend: Backend = "chunked",
) -> Tensor | tuple[Tensor, Tensor]:
    """o_t = sum over 0 <= j < W of taps_t[j] v_{t-j}, one set of taps a head: dynamic convolution.

    Wu et al. 2019 (arXiv:1901.10430, equation 4), where the taps are a softmax over j of a projection of the step.

    Args:
        taps: [B, T, H, W]; taps[..., 0] multiplies the current step.
        v: [B, T, H, V].
        initial_state: [B, W-1, H, V], the values before v, oldest first; None for zeros.
        return_state: also return the last W-1 values. They are inputs, not sums, so they keep the dtype of v.
        backend: "chunked"; "triton" for GPU kernels, which take no float64; or "reference" for one step at a time.

    Returns:
        o [B, T, H, V] in the dtype of v; with `return_state` the pair (o, state).

    Raises:
        ValueError: for shapes, dtypes or devices that do not fit, or a backend that is unknown or cannot run here.
    """
    check_alike({"v": v, "taps": taps, "initial_state": initial_state})
    check_shape("v", v, "BTHV", (None, None, None, None))
    batch, steps, heads, value = v.shape
    check_shape("taps", taps, "BTHW", (batch, steps, heads, None))
    earlier = taps.shape[-1] - 1
    whole = backend != "triton" or return_state or initial_state is not None  # kernels need no zeros before v
    if initial_state is None:
        initial_state = v.new_zeros(batch, earlier, heads, value)
    check_shape("initial_state", initial_state, "BWHV", (batch, earlier, heads, value))
    values = torch.cat([initial_state, v], 1) if earlier and whole else v
    dtype = accumulator(v.dtype)
    match backend:
        case "chunked":
            out = chunked.banded(taps.to(dtype), values.to(dtype))
        case "reference":
            out = reference.banded(taps.to(dtype), values.to(dtype))
        case "triton":
            require_triton("banded", v)
            from archloom.kernels.banded import triton  # an optional package

            out = triton.banded(taps, values)
        case _:
            raise unknown_backend(backend, "chunked", "reference", "triton")
    out = out.to(v.dtype)
    return (out, values[:, steps:]) if return_state else out
