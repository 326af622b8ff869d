# mypy: disallow-untyped-defs=False, disallow-incomplete-defs=False, disallow-untyped-decorators=False
"""Sums along the diagonals of tiles, of which gradients of weights by lag are made.

A pair of blocks of M steps that lie d blocks apart holds the lags first + d M + i - j, for row i and column j. Tiles of
pairs are summed for each d as they are, then along their diagonals, and no two programs add to one number.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor


@triton.jit
def diagonal_sums(b_x, M: tl.constexpr):
    """Of a tile [M, M], over the entries with i - j = m and with i - j = m - M: two sums [M] for m = 0 .. M-1.

    The second has nothing at m = 0. M is a power of two.
    """
    i, m = tl.arange(0, M)[:, None], tl.arange(0, M)[None, :]
    turned = tl.gather(b_x, (i - m) & (M - 1), 1)
    return tl.sum(tl.where(i >= m, turned, 0.0), 0), tl.sum(tl.where(i < m, turned, 0.0), 0)


def by_lag(parts: Tensor, first: int, entries: int) -> Tensor:
    """[X, L] for lags 0 .. L-1 from sums [X, D, 2, M] of D diagonals of tiles; i = j of the first is lag `first`."""
    rows, count, _, size = parts.shape
    sums = torch.zeros(rows, count + 1, size, dtype=parts.dtype, device=parts.device)
    sums[:, 1:] += parts[:, :, 0]
    sums[:, :-1] += parts[:, :, 1]
    start = size - first  # where lag 0 stands
    assert 0 <= start <= sums[0].numel() - entries, "the diagonals hold every lag"
    return sums.flatten(1)[:, start : start + entries]


def tile_diagonals(steps: int, sources: int, entries: int, size: int) -> tuple[int, int]:
    """The first and the last d at which lags of 0 .. L-1 stand, steps being the last T of S positions, L <= S."""
    past = sources - steps
    low = max(-((past + size - 1) // size), 1 - -(-sources // size))
    high = min((entries - 2 - past + size) // size, (steps - 1) // size)
    return low, high
