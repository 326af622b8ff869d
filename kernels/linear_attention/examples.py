"""The calls that stand for linear attention: every decay, exclusive with a bonus, and normalised."""

from collections.abc import Iterator

from torch import Tensor

from archloom.kernels.linear_attention import linear_attention
from archloom.kernels.table import Draw, Example


def examples(draw: Draw) -> Iterator[Example]:
    size = draw.size

    def example(name: str, decay: dict[str, Tensor], weights: dict[str, Tensor], **options: bool) -> Example:
        return Example(
            name=f"linear attention, {name}",
            function=linear_attention,
            inputs={**{each: draw.each(size.width) for each in "qkv"}, **decay},
            weights=weights,
            options=options,
            flops=size.tokens * (4 + bool(decay)) * size.width**2,
            state=(size.batch, size.heads, size.width, size.width),
        )

    for name, decay in draw.decays():
        yield example(name, decay, {})
    bonus = draw.leaf(size.heads, size.width)
    yield example("bonus", {"log_decay": draw.decay(*draw.per_head, size.width)}, {"bonus": bonus}, exclusive=True)
