"""Draws without replacement, a row at a time."""

import numpy as np
from numpy.typing import NDArray

Symbols = NDArray[np.int64]


def choose(draws: NDArray[np.float64], count: int) -> Symbols:
    """The places of the `count` smallest draws of each row, smallest first: [..., N] -> [..., count]."""
    return np.argsort(draws, axis=-1)[..., :count]


def subsets(rng: np.random.Generator, count: int, *, of: int, size: int) -> Symbols:
    """`size` different numbers of [0, of) in random order, in each of `count` rows: [count, size]."""
    return choose(rng.random((count, of)), size)
