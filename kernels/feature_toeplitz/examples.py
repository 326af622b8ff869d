"""The call that stands for inner products times a weight by lag."""

from collections.abc import Iterator

from archloom.kernels.feature_toeplitz import feature_toeplitz
from archloom.kernels.table import Draw, Example


def examples(draw: Draw) -> Iterator[Example]:
    size = draw.size
    yield Example(
        name="feature Toeplitz",
        function=feature_toeplitz,
        inputs={each: draw.each(size.width) for each in "qkv"},
        weights={"taps": draw.leaf(size.heads, size.steps)},
        flops=size.pairs() * 4 * size.width,
        dense=True,
    )
