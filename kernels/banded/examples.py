"""The calls that stand for data-dependent taps: few of them, and many."""

from collections.abc import Iterator

from archloom.kernels.banded import banded
from archloom.kernels.table import Draw, Example


def examples(draw: Draw) -> Iterator[Example]:
    size = draw.size
    for taps in (4, 32):
        yield Example(
            name=f"banded, W {taps}",
            function=banded,
            inputs={"taps": draw.each(taps), "v": draw.each(size.width)},
            flops=size.tokens * 2 * taps * size.width,
            state=(size.batch, taps - 1, size.heads, size.width),
        )
