"""Stacks as sequences of blocks: `layers` writes one out, `shortest` finds the one form that stands for a sequence.

`repeat`, `every` and `then` can say one sequence of blocks in many ways. The shortest has the fewest operations, and of
those the longest first part, nested evenly; it depends on the sequence alone, so equal architectures get equal terms.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from archloom.errors import ConfigError
from archloom.search_space.operations import MAX_TIMES, OPERATIONS, PERIODS
from archloom.search_space.patterns import Pattern
from archloom.search_space.terms import Term, build, joined, size


def layers(stack: Term) -> Iterator[Term]:
    """The blocks of a stack in order, repeats written out."""
    match stack.operation.name:
        case "repeat":
            yield from [stack.arguments[0]] * stack.integer("times")
        case "every":
            main, other = stack.arguments
            for index in range(1, stack.integer("times") + 1):
                yield other if index % stack.integer("period") == 0 else main
        case "then":
            yield from layers(stack.arguments[0])
            yield from layers(stack.arguments[1])
        case name:
            raise ConfigError(f"an architecture is a stack, got `{name}`: write repeat(block(...), times=...)")


def only_block(stack: Term) -> Term | None:
    """The block of a stack that has no other, out of the averages over it alone."""
    first, *others = layers(stack)
    if others:
        return None
    inner = only_block(first.arguments[0]) if first.operation.name == "averaged" else None
    return inner or first


def inside(block: Term) -> Term:
    """The stack that a block is made of. A stack of nothing but a lower rate is at that rate already."""
    stack = block.arguments[0]
    only = only_block(stack) if block.operation.stride > 1 else None
    return inside(only) if only is not None and only.operation is block.operation else stack


def coarse_length(length: int, stride: int, pattern: Pattern) -> int:
    """Tokens of a stream that runs at a lower rate: whole groups only where causal, but one at least to build for."""
    return max(1, length // stride) if pattern.causal else -(-length // stride)


class _Part(NamedTuple):
    """`length` blocks said by one operation: `repeat`, or `every` with this period."""

    length: int
    period: int | None


def shortest(stack: Term) -> Term:
    """The shortest stack with the same blocks in the same order."""
    return stack_of(list(layers(stack)))


def stack_of(blocks: Sequence[Term]) -> Term:
    """The shortest stack of these blocks in this order."""
    kinds, sizes = _numbered(blocks)
    # cost[i] is the fewest operations of blocks i, i + 1, ...; first[i] the part that such a stack begins with.
    cost, first = [0] * (len(blocks) + 1), [_Part(0, None)] * len(blocks)
    for start in range(len(blocks) - 1, -1, -1):
        best = None
        for part in _parts(kinds, start):
            end = start + part.length
            own = 1 + sizes[start] + (sizes[start + part.period - 1] if part.period else 0)
            found = (own + (1 + cost[end] if end < len(blocks) else 0), -part.length)
            if best is None or found < best:
                best, cost[start], first[start] = found, found[0], part
    parts, start = [], 0
    while start < len(blocks):
        parts.append(_said(blocks[start:], first[start]))
        start += first[start].length
    return joined(OPERATIONS["then"], parts)


def _numbered(blocks: Sequence[Term]) -> tuple[list[int], list[int]]:
    """A number for each block, the same for equal ones; and the size of each."""
    sizes = {id(block): size(block) for block in {id(block): block for block in blocks}.values()}
    different: list[Term] = []
    numbers: dict[int, int] = {}
    for block in blocks:
        if id(block) in numbers:
            continue
        alike = (n for n, each in enumerate(different) if sizes[id(each)] == sizes[id(block)] and each == block)
        number = numbers[id(block)] = next(alike, len(different))
        if number == len(different):
            different.append(block)
    return [numbers[id(block)] for block in blocks], [sizes[id(block)] for block in blocks]


def _parts(kinds: Sequence[int], start: int) -> Iterator[_Part]:
    """Everything that one operation can say from `start` on."""
    most = min(MAX_TIMES, len(kinds) - start)
    main = kinds[start]
    run = next((n for n in range(1, most) if kinds[start + n] != main), most)
    yield from (_Part(length, None) for length in range(1, run + 1))
    period = run + 1
    if period in PERIODS and period <= most:
        other = kinds[start + run]
        for length in range(period, most + 1):
            if kinds[start + length - 1] != (main if length % period else other):
                break
            yield _Part(length, period)


def _said(blocks: Sequence[Term], part: _Part) -> Term:
    if part.period is None:
        return build(OPERATIONS["repeat"], (part.length,), (blocks[0],))
    return build(OPERATIONS["every"], (part.period, part.length), (blocks[0], blocks[part.period - 1]))
