"""Stacks: blocks one after another."""

from archloom.search_space.operations.row import Operation, choice
from archloom.search_space.types import Type

MAX_TIMES = 64
TIMES = choice("times", *range(1, MAX_TIMES + 1))
PERIODS = (2, 3, 4, 6, 8)


def _hybrid(times: int, period: int, main: int, other: int) -> int:
    return (times - times // period) * main + times // period * other


STACKS = (
    Operation(
        name="repeat",
        rows=(((Type.BLOCK,), Type.STACK),),
        parameters=(TIMES,),
        summary="the block `times` times, each with weights of its own",
        equation=r"{0}^{\times n}",
        weight=3.0,
        blocks=lambda t, inner: t.integer("times") * inner[0],
    ),
    Operation(
        name="every",
        rows=(((Type.BLOCK, Type.BLOCK), Type.STACK),),
        parameters=(choice("period", *PERIODS), TIMES),
        summary="a hybrid: `times` blocks of the first kind, but every `period`-th is of the second",
        equation=r"({0}^{\times p-1}, {1})^{\times}",
        weight=300.0,
        blocks=lambda t, inner: _hybrid(t.integer("times"), t.integer("period"), *inner),
    ),
    Operation(
        name="then",
        rows=(((Type.STACK, Type.STACK), Type.STACK),),
        summary="one stack after another",
        equation=r"{0}; {1}",
        weight=160.0,  # two stacks are few among the terms of a size and depth
        blocks=lambda t, inner: sum(inner),
    ),
)
