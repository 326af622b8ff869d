"""The numbers that say how a score becomes a weight, apart from all tensors."""

from dataclasses import dataclass
from typing import Literal

from archloom.kernels.attention.positions import PositionalMask

Normaliser = Literal["softmax", "softmax_plus_one", "sigmoid", "relu", "relu2", "sparsemax"]
NORMALISERS: tuple[Normaliser, ...] = ("softmax", "softmax_plus_one", "sigmoid", "relu", "relu2", "sparsemax")
EXPONENTIAL: tuple[Normaliser, ...] = ("softmax", "softmax_plus_one")
LOGARITHMIC: tuple[Normaliser, ...] = (*EXPONENTIAL, "sparsemax")
"""Those whose scores are logarithms of weights: a decay is added to them, where it multiplies the weights of others."""


EVERYWHERE = PositionalMask()


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """`causal` is False also where a mask tensor, which may look ahead, takes the place of the causal rule."""

    scale: float
    causal: bool = True
    positions: PositionalMask = EVERYWHERE
    soft_cap: float | None = None
    normaliser: Normaliser = "softmax"
    top_k: int | None = None

    @property
    def added_to(self) -> bool:
        """Whether scores are the scaled inner products and what is added to them, and weights a softmax of all."""
        return self.normaliser in EXPONENTIAL and self.soft_cap is None and self.top_k is None

    @property
    def sees_all(self) -> bool:
        """Whether every query sees every key, but for a mask tensor."""
        return not self.causal and self.positions == EVERYWHERE

    def lag_zero(self, entries: int) -> int:
        """Which of the `entries` of a table by lag stands for t = s: the first, or the middle one of both sides."""
        return 0 if self.causal else entries // 2
