"""What a private inference would communicate for the nonlinear operations of a model: a model of a cost, not a
measurement.

Two parties hold shares of the stream and evaluate the network without showing it to each other. Matrix products are
cheap there; every other nonlinear operation costs communication (MPCViT, Zeng et al. 2022, arXiv:2211.13955;
Entropy-guided attention, Jha and Reagen 2025, arXiv:2501.03489). `nonlinear.count_nonlinear` counts them.

Bytes follow from two published ingredients. A protocol without a dealer over integers of `BITS` = 32 bits at security
`SECURITY` = 128: a comparison takes 128 BITS + 14 BITS bits and a ReLU 128 BITS + 18 BITS (CrypTFlow2, Rathee et al.
2020, arXiv:2010.06340, leading terms); a product of two secrets takes two sets of BITS correlated oblivious transfers:
2 BITS (SECURITY + (BITS + 1) / 2) bits. And functions as CrypTen makes them of products and comparisons (Knott et al.
2021, arXiv:2109.00984, with its default settings): see `RECIPES`. Products are truncated locally. Another protocol has
other weights, so only ratios between architectures under one table mean anything.
"""

from collections.abc import Mapping
from dataclasses import dataclass

BITS, SECURITY = 32, 128

COMPARISON_BYTES = (SECURITY * BITS + 14 * BITS) / 8
RELU_BYTES = (SECURITY * BITS + 18 * BITS) / 8
PRODUCT_BYTES = 2 * BITS * (SECURITY + (BITS + 1) / 2) / 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """How many products and comparisons of secrets one evaluation of a function takes."""

    products: int = 0
    comparisons: int = 0
    extra_bytes: float = 0.0

    @property
    def bytes(self) -> float:
        return self.products * PRODUCT_BYTES + self.comparisons * COMPARISON_BYTES + self.extra_bytes


RECIPES: Mapping[str, Recipe] = {
    "product": Recipe(products=1),  # of two secrets, or a square
    "comparison": Recipe(comparisons=1),
    "relu": Recipe(extra_bytes=RELU_BYTES),
    "exponential": Recipe(products=8),  # (1 + x / 2^8)^(2^8)
    "division": Recipe(products=8 + 2 * 10),  # one over a positive number: ten Newton steps from 3 exp(1 - 2 x)
    "inverse_root": Recipe(products=8 + 3 * 3),  # three Newton steps from an exponential
    "logarithm": Recipe(products=8 + 2 * (8 + 1 + 7)),  # two Householder steps of order 8 from an exponential
    "trigonometric": Recipe(products=1 + 9 * 3),  # (1 + i x / 2^10)^(2^10)
    "sigmoid": Recipe(products=1 + 9 + 4 + 2, comparisons=1),  # sign, exponential, Newton steps from 0.75, choice
    "gated_sigmoid": Recipe(products=1 + 1 + 9 + 4 + 2, comparisons=1),  # silu; gelu as x sigmoid(1.702 x)
}
"""By the kind of a nonlinear operation."""


def communicated(counts: Mapping[str, float]) -> float:
    """Bytes for so many operations of each kind."""
    return sum(number * RECIPES[kind].bytes for kind, number in counts.items())
