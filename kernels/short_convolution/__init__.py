"""Depthwise causal convolution with a few taps; see README.md."""

from typing import Literal

import torch
from torch import Tensor

from archloom.kernels.arguments import check_alike, check_shape
from archloom.kernels.backends import unknown_backend
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
    backend: Literal["chunked", "reference"] = "chunked",
) -> Tensor | tuple[Tensor, Tensor]:
    """y_t = bias + sum over 0 <= j < W of taps_j x_{t-j}, each channel for itself (as in H3 and Mamba).

    Args:
        x: [B, T, C].
        taps: [C, W]; taps[:, 0] multiplies the current step.
        bias: [C] or None.
        initial_state: [B, W-1, C], the inputs before x, oldest first; None for zeros.
        return_state: also return the last W-1 inputs. They are inputs, not sums, so they keep the dtype of x.
        backend: "chunked", or "reference" for one step at a time.

    Returns:
        y [B, T, C] in the dtype of x; with `return_state` the pair (y, state).

    Raises:
        ValueError: for shapes, dtypes or devices that do not fit, or an unknown backend.
    """
    check_alike({"x": x, "taps": taps, "bias": bias, "initial_state": initial_state})
    check_shape("x", x, "BTC", (None, None, None))
    batch, _, channels = x.shape
    check_shape("taps", taps, "CW", (channels, None))
    earlier = taps.shape[1] - 1
    if bias is not None:
        check_shape("bias", bias, "C", (channels,))
    if initial_state is None:
        initial_state = x.new_zeros(batch, earlier, channels)
    check_shape("initial_state", initial_state, "BWC", (batch, earlier, channels))
    inputs = torch.cat([initial_state, x], 1) if earlier else x
    match backend:
        case "chunked":
            out = chunked.short_convolution(inputs, taps, bias)
        case "reference":
            out = reference.short_convolution(inputs, taps, bias)
        case _:
            raise unknown_backend(backend)
    return (out, inputs[:, x.shape[1] :]) if return_state else out
