"""The call that stands for the short convolution."""

from collections.abc import Iterator

from archloom.kernels.short_convolution import short_convolution
from archloom.kernels.table import Draw, Example

TAPS = 4


def examples(draw: Draw) -> Iterator[Example]:
    size = draw.size
    channels = size.heads * size.width
    yield Example(
        name=f"short convolution, W {TAPS}",
        function=short_convolution,
        inputs={"x": draw.leaf(size.batch, size.steps, channels)},
        weights={"taps": draw.leaf(channels, TAPS), "bias": draw.leaf(channels)},
        flops=size.tokens * 2 * TAPS * size.width,
        state=(size.batch, TAPS - 1, channels),
    )
