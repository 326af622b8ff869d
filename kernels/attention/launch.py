"""What the launches of the attention kernels compute in PyTorch: switches, decays and lists of blocks before, the
gradients of decays and tables after."""

import math
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad

from archloom.kernels.attention.blocks import padded
from archloom.kernels.attention.positions import PositionalMask
from archloom.kernels.attention.rule import EXPONENTIAL, Rule

WIDEST = 256
NUMBERS = {"softmax": 0, "softmax_plus_one": 1, "sigmoid": 2, "relu": 3, "relu2": 4}
"""Normalisers as the kernels know them."""


def check_type(q: Tensor, v: Tensor) -> None:
    if q.dtype not in (torch.float32, torch.bfloat16):
        raise ValueError(f'q has dtype {q.dtype}; the Triton kernels take float32 and bfloat16, backend="chunked" any')
    widest = max(q.shape[3], v.shape[3])
    if widest > WIDEST:
        raise ValueError(f'K = {q.shape[3]}, V = {v.shape[3]}; the Triton kernels take up to {WIDEST}, "chunked" any')


def unit(rule: Rule) -> float:
    """Scores of the softmaxes count in powers of two."""
    return math.log2(math.e) if rule.normaliser in EXPONENTIAL else 1.0


def scales(rule: Rule) -> tuple[float, float]:
    """scale and cap of the kernels: x = scale <q, k>, or cap tanh(scale <q, k>)."""
    if rule.soft_cap is None:
        return rule.scale * unit(rule), 1.0
    return rule.scale / rule.soft_cap, rule.soft_cap * unit(rule)


def decay_parts(log_decay: Tensor) -> Tensor:
    """[B, S, H] -> [B, H, 2, S]: its cumulative sum in powers of two, as a float32 number and what that leaves out."""
    total = log_decay.double().cumsum(1).transpose(1, 2) * math.log2(math.e)
    large = total.float()
    return torch.stack([large, (total - large).float()], 2).contiguous()


def switches(rule: Rule, width: int, value: int, *, decayed: bool, biased: bool, masked: bool) -> dict[str, Any]:
    """The compile-time constants that all kernels share."""
    the = PositionalMask() if masked else rule.positions
    return {
        "K": width,
        "V": value,
        "BLOCK_K": padded(width),
        "BLOCK_V": padded(value),
        "NORMALISER": NUMBERS[rule.normaliser],
        "CAUSAL": rule.causal,
        "WINDOW": the.reach or 0,
        "DILATION": the.dilation or 0,
        "CHUNK": the.chunk or 0,
        "FIRST": the.first or 0,
        "STRIDE": the.stride or 0,
        "MASKED": masked,
        "CAPPED": rule.soft_cap is not None,
        "BIASED": biased,
        "DECAYED": decayed,
    }


def listed_blocks(mask: Tensor, rows: int, columns: int) -> tuple[Tensor, Tensor]:
    """For each block of rows, the blocks of columns in which the mask shows anything, and how many: [.., ..], [..]."""
    (steps, sources), device = mask.shape, mask.device
    padding = torch.zeros(-(-steps // rows) * rows, -(-sources // columns) * columns, dtype=torch.bool, device=device)
    padding[:steps, :sources] = mask
    any_shown = torch.unflatten(torch.unflatten(padding, 1, (-1, columns)).any(2), 0, (-1, rows)).any(1)
    order = any_shown.logical_not().to(torch.int8).argsort(dim=1, stable=True)
    return order.to(torch.int32).contiguous(), any_shown.sum(1, dtype=torch.int32)


def decay_gradient(d_row: Tensor, d_column: Tensor) -> Tensor:
    """[B, S, H] from what the cumulative decay receives at queries [B, H, T] and loses at keys [B, H, S]."""
    total = -d_column.double()
    total[..., total.shape[-1] - d_row.shape[-1] :] += d_row
    return total.flip(-1).cumsum(-1).flip(-1).transpose(1, 2)


def diagonals(steps: int, sources: int, size: int, rule: Rule) -> tuple[int, int]:
    """The diagonals of tiles that hold anything seen, from the first up to, not including, the second."""
    offset, the = sources - steps, rule.positions
    low, high = 1 - -(-sources // size), -(-steps // size)
    if rule.causal:
        low = max(low, -((offset + size - 1) // size))
    if the.reach is not None and the.first is None and the.stride is None:
        high = min(high, (the.reach + size - 2 - offset) // size + 1)
        if not rule.causal:
            low = max(low, -((the.reach + size - 2 + offset) // size))
    return low, high


def by_lag(tiles: Tensor, lag: int, entries: int, rule: Rule) -> Tensor:
    """[H, L] from tiles [H, D, M, M]: entry i, j of the first tile is of `lag` + i - j, of each next one M more."""
    heads, count, size, _ = tiles.shape
    # with its columns reversed and row i shifted by i to the right, what shares i - j stands in one column
    skewed = pad(tiles.flip(-1), (0, size)).flatten(2)[..., : size * (2 * size - 1)]
    sums = skewed.view(heads, count, size, 2 * size - 1).sum(2)  # of `lag` + 1 - M and up
    lags = tiles.new_zeros(heads, count + 1, size)
    lags[:, :-1] += sums[..., :size]
    lags[:, 1:, :-1] += sums[..., size:]
    lags = lags.flatten(1)
    start = lag + 1 - size + rule.lag_zero(entries)  # where in the table the first of them belongs
    table = tiles.new_zeros(heads, entries)
    low, high = max(1, start), min(entries - 1, start + lags.shape[1])
    if low < high:
        table[:, low:high] = lags[:, low - start : high - start]
    table[:, 0] += lags[:, : max(1 - start, 0)].sum(1)
    table[:, -1] += lags[:, max(entries - 1 - start, 1 - start, 0) :].sum(1)
    return table
