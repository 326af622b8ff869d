"""The calls that stand for local linear attention: of all the past, and in a window."""

from collections.abc import Iterator

from archloom.kernels.local_linear import local_linear
from archloom.kernels.table import Draw, Example


def examples(draw: Draw) -> Iterator[Example]:
    size = draw.size
    for name, window in (("causal", None), ("window 32", 32)):
        solves = size.tokens * size.width**3 / 3
        yield Example(
            name=f"local linear, {name}",
            function=local_linear,
            inputs={each: draw.each(size.width) for each in "qkv"},
            options={"ridge": 1.0, "window": window},
            flops=size.pairs(window) * (size.width**2 + 7 * size.width) + solves,
            dense=True,
        )
