"""Convolution with data-dependent taps: one multiply-add per tap if they are few, blocks of the band if many."""

import torch
from torch import Tensor
from torch.nn.functional import pad

FEW_TAPS = 8
SHORTEST_BLOCK = 32
"""Steps of a block of the band matrix, unless the band is wider."""


def banded(taps: Tensor, values: Tensor) -> Tensor:
    """Taps [B, T, H, W] over values [B, W-1+T, H, V]: [B, T, H, V]."""
    return by_taps(taps, values) if taps.shape[-1] <= FEW_TAPS else by_blocks(taps, values)


def by_taps(taps: Tensor, values: Tensor) -> Tensor:
    steps, earlier = taps.shape[1], taps.shape[-1] - 1
    now, *before = taps.unsqueeze(-1).unbind(-2)
    out = now * values[:, earlier:]
    for lag, tap in enumerate(before, start=1):
        out = torch.addcmul(out, tap, values[:, earlier - lag : earlier - lag + steps])
    return out


def by_blocks(taps: Tensor, values: Tensor) -> Tensor:
    """C rows of the band at a time, [C, C + W - 1], against the values that they reach."""
    steps, width = taps.shape[1], taps.shape[-1]
    length = max(SHORTEST_BLOCK, width)
    span, missing = length + width - 1, -steps % length
    oldest_first = pad(taps.flip(-1), (0, 0, 0, 0, 0, missing)).transpose(1, 2)
    rows = torch.unflatten(oldest_first, 2, (-1, length))  # [B, H, N, C, W]
    # rows of C + W entries read as rows of C + W - 1: each starts one to the right of the one before
    flat = pad(rows, (0, length)).flatten(-2)[..., : length * span]
    band = torch.unflatten(flat, -1, (length, span))
    reached = pad(values, (0, 0, 0, 0, 0, missing)).unfold(1, span, length)  # [B, N, H, V, C + W - 1]
    out = band @ reached.permute(0, 2, 1, 4, 3)
    return out.flatten(2, 3).transpose(1, 2)[:, :steps]
