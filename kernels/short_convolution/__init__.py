"""Depthwise causal convolution with a few taps; see README.md."""

import torch
from torch import Tensor

from archloom.kernels.arguments import check_alike, check_shape
from archloom.kernels.backends import Backend, require_triton, unknown_backend
from archloom.kernels.short_convolution import chunked, reference

__all__ = ["short_convolution"]

LAST_INPUT = "x"
"""The argument whose last values are the state."""


def short_convolution(
    x: Tensor,
    taps: Tensor,
    *,
    bias: Tensor | None = None,
    initial_state: Tensor | None = None,
    return_state: bool = False,
    backend: Backend = "chunked",
) -> Tensor | tuple[Tensor, Tensor]:
    """y_t = bias + sum over 0 <= j < W of taps_j x_{t-j}, each channel for itself (as in H3 and Mamba).

    Args:
        x: [B, T, C].
        taps: [C, W]; taps[:, 0] multiplies the current step.
        bias: [C] or None.
        initial_state: [B, W-1, C], the inputs before x, oldest first; None for zeros.
        return_state: also return the last W-1 inputs. They are inputs, not sums, so they keep the dtype of x.
        backend: "chunked"; "triton" for GPU kernels, which take no float64; or "reference" for one step at a time.

    Returns:
        y [B, T, C] in the dtype of x; with `return_state` the pair (y, state).

    Raises:
        ValueError: for shapes, dtypes or devices that do not fit, or a backend that is unknown or cannot run here.
    """
    check_alike({"x": x, "taps": taps, "bias": bias, "initial_state": initial_state})
    check_shape("x", x, "BTC", (None, None, None))
    batch, steps, channels = x.shape
    check_shape("taps", taps, "CW", (channels, None))
    earlier = taps.shape[1] - 1
    if bias is not None:
        check_shape("bias", bias, "C", (channels,))
    whole = backend != "triton" or return_state or initial_state is not None  # kernels need no zeros before x
    if initial_state is None:
        initial_state = x.new_zeros(batch, earlier, channels)
    check_shape("initial_state", initial_state, "BWC", (batch, earlier, channels))
    inputs = torch.cat([initial_state, x], 1) if earlier and whole else x
    match backend:
        case "chunked":
            out = chunked.short_convolution(inputs, taps, bias)
        case "reference":
            out = reference.short_convolution(inputs, taps, bias)
        case "triton":
            require_triton("short_convolution", x)
            from archloom.kernels.short_convolution import triton  # an optional package

            out = triton.short_convolution(inputs, taps, bias, steps)
        case _:
            raise unknown_backend(backend, "chunked", "reference", "triton")
    return (out, inputs[:, steps:]) if return_state else out
