"""Sums along the diagonals of tiles against sums by lag that are formed pair by pair."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("triton")

import triton
import triton.language as tl

from archloom.kernels.backends import interprets
from archloom.kernels.triton_diagonals import by_lag, diagonal_sums, tile_diagonals


@triton.jit
def sums_kernel(p_x, p_sums, M: tl.constexpr):
    cell = tl.arange(0, M)
    here, before = diagonal_sums(tl.load(p_x + cell[:, None] * M + cell[None, :]), M)
    tl.store(p_sums + cell, here)
    tl.store(p_sums + M + cell, before)


def diagonals_of(tile: torch.Tensor) -> torch.Tensor:
    """[2, M]: what the kernel makes of a tile."""
    size = len(tile)
    return torch.stack(
        [
            torch.stack([tile.diagonal(-m).sum() for m in range(size)]),
            torch.stack([tile.diagonal(size - m).sum() for m in range(size)]),
        ]
    )


@pytest.mark.parametrize("size", [16, 64])
@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def test_a_tile_is_summed_along_its_diagonals(size, device):
    if device == "cpu" and not interprets():
        pytest.skip("a GPU is at hand, where kernels are compiled: -m gpu")
    tile, sums = torch.randn(size, size, device=device), torch.full((2, size), torch.nan, device=device)
    sums_kernel[(1,)](tile, sums, M=size)
    torch.testing.assert_close(sums, diagonals_of(tile), rtol=1e-5, atol=1e-5)


@settings(max_examples=60, deadline=None)
@given(
    steps=st.integers(1, 20), past=st.integers(0, 20), entries=st.integers(1, 40), size=st.sampled_from([1, 2, 4, 8])
)
def test_every_pair_is_counted_once_at_its_lag(steps, past, entries, size):
    sources = steps + past
    entries = min(entries, sources)
    pairs = torch.randn(steps, sources, dtype=torch.float64)
    expected = torch.stack([pairs.diagonal(past - lag).sum() for lag in range(entries)])
    low, high = tile_diagonals(steps, sources, entries, size)
    rows, columns = -(-steps // size), -(-sources // size)
    whole = pairs.new_zeros(rows * size, columns * size)
    whole[:steps, :sources] = pairs
    parts = []
    for apart in range(low, high + 1):
        tile = pairs.new_zeros(size, size)
        for i in range(max(apart, 0), min(rows, columns + apart)):
            j = i - apart
            tile += whole[i * size : (i + 1) * size, j * size : (j + 1) * size]
        parts.append(diagonals_of(tile))
    sums = by_lag(torch.stack(parts)[None], past + low * size, entries)
    torch.testing.assert_close(sums[0], expected, rtol=1e-12, atol=1e-12)
