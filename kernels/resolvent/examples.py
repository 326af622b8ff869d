"""The calls that stand for the resolvent and the delta rule: every decay."""

from collections.abc import Iterator

from archloom.kernels.resolvent import delta_rule, resolvent
from archloom.kernels.table import Draw, Example


def examples(draw: Draw) -> Iterator[Example]:
    size = draw.size
    state = (size.batch, size.heads, size.width, size.width)
    for name, decay in draw.decays():
        for title, function, reads in (("resolvent", resolvent, False), ("delta rule", delta_rule, True)):
            queries = {"q": draw.each(size.width)} if reads else {}
            yield Example(
                name=f"{title}, {name}",
                function=function,
                inputs={**queries, "b": draw.unit(), "k": draw.unit(), "x": draw.each(size.width), **decay},
                flops=size.tokens * (4 + 2 * reads + bool(decay)) * size.width**2,
                state=state,
            )
