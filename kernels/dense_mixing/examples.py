"""The call that stands for mixing by a learned matrix."""

from collections.abc import Iterator

from archloom.kernels.dense_mixing import dense_mixing
from archloom.kernels.table import Draw, Example


def examples(draw: Draw) -> Iterator[Example]:
    size = draw.size
    yield Example(
        name="dense mixing",
        function=dense_mixing,
        inputs={"v": draw.each(size.width)},
        weights={"matrix": draw.leaf(size.heads, size.steps, size.steps)},
        flops=size.pairs() * 2 * size.width,
        dense=True,
    )
