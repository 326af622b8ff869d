"""Convolution with data-dependent taps, one output at a time."""

import torch
from torch import Tensor


def banded(taps: Tensor, values: Tensor) -> Tensor:
    """Taps [B, T, H, W] over values [B, W-1+T, H, V]: [B, T, H, V]."""
    width, sequence, outputs = taps.shape[-1], values.unbind(1), []
    for step, weights in enumerate(taps.unbind(1)):
        newest_first = torch.stack(sequence[step : step + width][::-1], 2)  # [B, H, W, V]
        outputs.append(torch.einsum("bhw,bhwv->bhv", weights, newest_first))
    return torch.stack(outputs, 1)
