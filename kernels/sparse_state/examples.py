"""The calls that stand for states in slots: half of the routes are zero, without and with a decay."""

from collections.abc import Iterator

from archloom.kernels.sparse_state import sparse_state
from archloom.kernels.table import Draw, Example

SLOTS = 4


def examples(draw: Draw) -> Iterator[Example]:
    size = draw.size
    for name, decay in (("none", {}), ("head", {"log_decay": draw.decay(*draw.per_head)})):
        yield Example(
            name=f"sparse state, {name}",
            function=sparse_state,
            inputs={
                **{each: draw.each(size.width) for each in "qkv"},
                **{route: draw.routes(SLOTS) for route in ("read", "write")},
                **decay,
            },
            flops=size.tokens * SLOTS * (4 + bool(decay)) * size.width**2,
            state=(size.batch, size.heads, SLOTS, size.width, size.width),
        )
