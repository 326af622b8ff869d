"""The calls that stand for kernels in a window: applied and resolved, with every decay."""

from collections.abc import Iterator

from archloom.kernels.table import Draw, Example
from archloom.kernels.windowed import windowed_linear_attention, windowed_resolvent

WINDOW = 16


def examples(draw: Draw) -> Iterator[Example]:
    size = draw.size
    for name, decay in draw.decays():
        flops = size.pairs(WINDOW) * (4 + bool(decay)) * size.width
        yield Example(
            name=f"windowed, {name}",
            function=windowed_linear_attention,
            inputs={**{each: draw.each(size.width) for each in "qkv"}, **decay},
            options={"window": WINDOW},
            flops=flops,
            dense=True,
        )
        yield Example(
            name=f"windowed resolvent, {name}",
            function=windowed_resolvent,
            inputs={"b": draw.unit(), "k": draw.unit(), "x": draw.each(size.width), **decay},
            options={"window": WINDOW},
            flops=flops,
            dense=True,
        )
