"""The call that stands for the selective scan."""

from collections.abc import Iterator

from archloom.kernels.selective_scan import selective_scan
from archloom.kernels.table import Draw, Example


def examples(draw: Draw) -> Iterator[Example]:
    size = draw.size
    yield Example(
        name="selective scan",
        function=selective_scan,
        inputs={
            **{each: draw.each(size.width) for each in "qkv"},
            "step": draw.uniform(*draw.per_head, size.width),
        },
        weights={"rate": draw.decay(size.heads, size.width, size.width)},
        flops=size.tokens * 7 * size.width**2,
        state=(size.batch, size.heads, size.width, size.width),
    )
