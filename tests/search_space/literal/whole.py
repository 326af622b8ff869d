"""Whole architectures: blocks one after another, from the published equations. Conventions are those of `parts`.

One sequence at a time, x [T, D]. Weights come by name, `under` picks those of one part. A mixer's weights have the
names of its literal; those of blocks and channel mixers are named as they are in the compiled modules.
"""

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from .parts import rms_norm
from .places import Places

Weights = dict[str, Tensor]
Layer = Callable[[Tensor, Weights], Tensor]
"""A mixer, a channel mixer or a block: (stream [T, D], its weights) -> [T, D]."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Whole:
    """A zoo entry at `depth` blocks: the literal of its blocks in order and the places of its mixers' weights.

    `places` has one item for every different mixer, in order. `count` gives the parameters of the whole from D, the
    inner widths of keys and of values, and the hidden width of channel mixers.
    """

    depth: int
    literal: Layer
    places: tuple[Places, ...]
    count: Callable[[int, int, int, int], int]


def under(weights: Weights, prefix: str) -> Weights:
    """The weights of a part, by their names in it."""
    start = f"{prefix}."
    return {name.removeprefix(start): weight for name, weight in weights.items() if name.startswith(start)}


def stacked(*kinds: Layer) -> Layer:
    """Blocks in order, without a norm behind them."""

    def stack(x: Tensor, weights: Weights) -> Tensor:
        for number, kind in enumerate(kinds):
            x = kind(x, under(weights, f"blocks.{number}"))
        return x

    return stack


def architecture(*kinds: Layer) -> Layer:
    """Blocks in order and the final norm."""
    blocks = stacked(*kinds)

    def whole(x: Tensor, weights: Weights) -> Tensor:
        return rms_norm(blocks(x, under(weights, "layers")), weights["norm.weight"])

    return whole
