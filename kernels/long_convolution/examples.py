"""The call that stands for the long convolution: a filter as long as the sequence."""

import math
from collections.abc import Iterator

from archloom.kernels.long_convolution import long_convolution
from archloom.kernels.table import Draw, Example


def examples(draw: Draw) -> Iterator[Example]:
    size, points = draw.size, 2 * draw.size.steps
    channels = size.heads * size.width
    yield Example(
        name="long convolution",
        function=long_convolution,
        inputs={"x": draw.leaf(size.batch, size.steps, channels)},
        weights={"filter": draw.leaf(channels, size.steps)},
        # three real transforms of twice the length, and the product of two spectra
        flops=size.batch * channels * (3 * 2.5 * points * math.log2(points) + 3 * points),
        dense=True,
    )
