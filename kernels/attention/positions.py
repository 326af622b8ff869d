"""Masks that only positions decide: a neighbourhood of every query, and keys that every query sees."""

from dataclasses import dataclass

import torch
from torch import Tensor

Span = tuple[int, int]
"""Positions from the first up to, not including, the second."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PositionalMask:
    """What the query at t sees of the key at s, counted from the first of S keys; the T queries are the last positions.

        near = [|t - s| < window] [(t - s) mod dilation = 0] [floor(t / chunk) = floor(s / chunk)]
        seen = near or [s < first] or [(s + 1) mod stride = 0]

    A factor that is None is 1. Where `first` or `stride` is given and none of the three factors is, near is [t = s].
    The causal rule [s <= t] comes on top; every query sees itself. With them one writes a sliding window, local
    chunks, dilated windows (the window counts positions: w keys that lie d apart are window = w d), attention sinks
    beside a window (Xiao et al. 2023, arXiv:2309.17453), and the strided pattern of Child et al. (2019,
    arXiv:1904.10509).

    Raises:
        ValueError: for a number below 1.
    """

    window: int | None = None
    dilation: int | None = None
    chunk: int | None = None
    first: int | None = None
    stride: int | None = None

    def __post_init__(self) -> None:
        for name in ("window", "dilation", "chunk", "first", "stride"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} of a positional mask is {value}; expected at least 1, or None")

    @property
    def only_window(self) -> bool:
        """Whether nothing but the window, if that, is given."""
        return self == PositionalMask(window=self.window)

    @property
    def reach(self) -> int | None:
        """The window that holds all near keys, None if they may lie anywhere."""
        near = (self.window, self.dilation, self.chunk)
        return 1 if near == (None, None, None) and (self.first or self.stride) else self.window


def shown(the: PositionalMask, causal: bool, t: Tensor, s: Tensor) -> Tensor:
    """[T, S] of bool: what queries at positions `t` [T] see of keys at positions `s` [S]."""
    t = t.unsqueeze(1)
    lag = t - s
    near = torch.ones_like(lag, dtype=torch.bool)
    if the.reach is not None:
        near = lag.abs() < the.reach
    if the.dilation is not None:
        near = near & (lag % the.dilation == 0)
    if the.chunk is not None:
        near = near & (t // the.chunk == s // the.chunk)
    if the.first is not None:
        near = near | (s < the.first)
    if the.stride is not None:
        near = near | ((s + 1) % the.stride == 0)
    return near & (lag >= 0) if causal else near


def spans(the: PositionalMask, causal: bool, start: int, stop: int, sources: int) -> list[Span]:
    """One or two spans of keys that hold all that the queries at positions start to stop - 1 see."""
    end = stop if causal else sources
    if the.stride is not None:
        return [(0, end)]
    low, high = 0, end
    if the.reach is not None:
        low, high = max(low, start - the.reach + 1), min(high, stop + the.reach - 1)
    if the.chunk is not None:
        low, high = max(low, start // the.chunk * the.chunk), min(high, -(-stop // the.chunk) * the.chunk)
    first = min(the.first or 0, end)
    if first >= low:
        return [(0, max(first, high))]
    return [(0, first), (low, high)] if first else [(low, high)]
