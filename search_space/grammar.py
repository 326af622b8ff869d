"""The weighted context-free grammar behind the algebra, derived from the table of operations, and its counting tables.

A symbol is a type; stacks are split by their depth in blocks, so that depth is exact. A production is an operation with
fixed parameter values and argument types. `Grammar.count(symbol, size)` is the total weight of all terms of that symbol
with that many operations: with every weight 1 it is their exact number, and drawing in proportion to it is uniform.

Weights are kept in budget by *load*, a mixer's own weights in eighths of D^2, rounded up operation by operation: tables
hold the least and the largest load of each (symbol, size), so a draw under a limit never has to be rejected.
"""

from bisect import bisect
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import accumulate, product
from math import ceil
from random import Random

from archloom.search_space.operations import HEADS, OPERATIONS, Operation, Shape
from archloom.search_space.terms import Term, Value
from archloom.search_space.types import Type

Symbol = tuple[Type, int]
"""A type and, for stacks, the number of blocks (0 otherwise)."""

EIGHTHS = 8
UNLIMITED = 1 << 30
_OUTER = (Type.STACK, Type.BLOCK)


@dataclass(frozen=True, slots=True, kw_only=True)
class Production:
    """One way to make a symbol. `leaf` is the ready term of a production without arguments."""

    operation: Operation
    values: tuple[Value, ...]
    type: Type
    children: tuple[Symbol, ...]
    weight: float
    load: int
    leaf: Term | None


Entry = tuple[Production, tuple[tuple[Symbol, int], ...]]
"""A production and the symbols and sizes of its arguments."""


@dataclass(frozen=True, slots=True)
class Choices:
    """The ways to make a symbol of one size within one limit: cumulative weights and (production, child sizes)."""

    cumulative: tuple[float, ...]
    entries: tuple[Entry, ...]

    def draw(self, rng: Random) -> Entry:
        return self.entries[bisect(self.cumulative, rng.random() * self.cumulative[-1])]


def symbol(type_: Type, blocks: int = 0) -> Symbol:
    return (type_, blocks)


class Grammar:
    """Counting tables up to `max_size` operations and `depth` blocks.

    `weights` replaces the prior weight of operations by name; `uniform=True` gives every operation with a positive
    prior the weight 1 and every parameter value the same, so that counts are exact integers. Loads are counted at
    model width `width` and `length` tokens, with as many heads as there can be.
    """

    def __init__(
        self,
        *,
        depth: int,
        max_size: int,
        width: int = 64,
        length: int = 64,
        weights: Mapping[str, float] | None = None,
        uniform: bool = False,
    ) -> None:
        self.depth = depth
        self.max_size = max_size
        self._nominal = _nominal(width, length)
        self._own_load: dict[tuple[Operation, tuple[Value, ...], Type], int] = {}
        self.productions = _productions(depth, self._nominal, dict(weights or {}), uniform)
        zero = 0 if uniform else 0.0
        self._counts: dict[Symbol, list[float]] = {s: [zero] * (max_size + 1) for s in self.productions}
        self._least: dict[Symbol, list[int]] = {s: [UNLIMITED] * (max_size + 1) for s in self.productions}
        self._most: dict[Symbol, list[int]] = {s: [-1] * (max_size + 1) for s in self.productions}
        self._choices: dict[tuple[Symbol, int, int], Choices] = {}
        self._ways: dict[tuple[Symbol, int], list[tuple[float, int, Entry]]] = {}
        for size in range(1, max_size + 1):
            self._fill(size)

    def count(self, which: Symbol, size: int) -> float:
        """Total weight of the terms of a symbol with `size` operations; their number if the grammar is uniform."""
        return self._counts[which][size] if which in self._counts and size <= self.max_size else 0

    def least_load(self, which: Symbol, size: int) -> int:
        return self._least[which][size]

    def load(self, nodes: Iterable[Term]) -> int:
        """The summed load of operations."""
        total = 0
        for node in nodes:
            key = (node.operation, node.values, node.type)
            own = self._own_load.get(key)
            if own is None:
                own = self._own_load[key] = _load(*key, self._nominal)
            total += own
        return total

    def sizes(self, which: Symbol, *, limit: int = UNLIMITED) -> list[int]:
        """The sizes that have a term of this symbol within the limit."""
        counts, least = self._counts[which], self._least[which]
        return [size for size in range(1, self.max_size + 1) if counts[size] and least[size] <= limit]

    def choices(self, which: Symbol, size: int, limit: int) -> Choices:
        """What may stand at a symbol of `size` operations so that its load stays within `limit`.

        A limit that binds is lowered to a whole number of D^2, but never below the least load, so few tables are made.
        """
        if limit >= self._most[which][size]:
            limit = UNLIMITED
        else:
            limit = max(self._least[which][size], limit - limit % EIGHTHS)
        cached = self._choices.get((which, size, limit))
        if cached is None:
            cached = self._choices[which, size, limit] = self._make_choices(which, size, limit)
        return cached

    def _fill(self, size: int) -> None:
        for which, productions in self.productions.items():
            total, least, most = self._counts[which][size], UNLIMITED, -1
            for each in productions:
                for sizes in _splits(size - 1, len(each.children)):
                    ways = _product([self._counts[c][n] for c, n in zip(each.children, sizes, strict=True)])
                    if ways:
                        total += each.weight * ways
                        least = min(least, self._load_of(each, sizes, self._least))
                        most = max(most, self._load_of(each, sizes, self._most))
            self._counts[which][size], self._least[which][size], self._most[which][size] = total, least, most

    def _load_of(self, production: Production, sizes: Sequence[int], table: dict[Symbol, list[int]]) -> int:
        loads = [table[child][n] for child, n in zip(production.children, sizes, strict=True)]
        return max(loads) if production.type in _OUTER else production.load + sum(loads)

    def _make_choices(self, which: Symbol, size: int, limit: int) -> Choices:
        ways = self._ways.get((which, size))
        if ways is None:
            ways = self._ways[which, size] = list(self._all_ways(which, size))
        within = [(weight, entry) for weight, load, entry in ways if load <= limit]
        if not within:
            raise ValueError(f"no {which[0].value} has {size} operations within load {limit}")
        return Choices(tuple(accumulate(weight for weight, _ in within)), tuple(entry for _, entry in within))

    def _all_ways(self, which: Symbol, size: int) -> Iterator[tuple[float, int, Entry]]:
        """(weight, least load, entry) of every production and split of the size."""
        for each in self.productions[which]:
            for sizes in _splits(size - 1, len(each.children)):
                ways = _product([self._counts[c][n] for c, n in zip(each.children, sizes, strict=True)])
                if ways:
                    entry = (each, tuple(zip(each.children, sizes, strict=True)))
                    yield each.weight * ways, self._load_of(each, sizes, self._least), entry


@lru_cache(maxsize=16)
def shared_grammar(depth: int, max_size: int, width: int, length: int) -> Grammar:
    """The default-weight grammar of one depth, size and nominal shape, built once per process."""
    return Grammar(depth=depth, max_size=max_size, width=width, length=length)


def _product(factors: Sequence[float]) -> float:
    result: float = 1
    for factor in factors:
        result *= factor
    return result


@lru_cache(maxsize=None)
def _splits(total: int, parts: int) -> tuple[tuple[int, ...], ...]:
    """Every way to write `total` as an ordered sum of `parts` positive numbers."""
    if parts == 0:
        return ((),) if total == 0 else ()
    if parts == 1:
        return ((total,),) if total > 0 else ()
    return tuple((first, *rest) for first in range(1, total) for rest in _splits(total - first, parts - 1))


def _productions(
    depth: int, nominal: Shape, weights: dict[str, float], uniform: bool
) -> dict[Symbol, list[Production]]:
    found: dict[Symbol, list[Production]] = {}
    for operation in OPERATIONS.values():
        weight = weights.get(operation.name, operation.weight)
        if weight <= 0 or operation.weight <= 0:
            continue
        for values in product(*(parameter.choices for parameter in operation.parameters)):
            each = 1 if uniform else weight / _prior_choices(operation, depth)
            for types, result in operation.signatures.items():
                for made, children in _by_depth(operation, values, types, result, depth):
                    leaf = Term(operation, values, (), result) if not types else None
                    found.setdefault(made, []).append(
                        Production(
                            operation=operation,
                            values=values,
                            type=result,
                            children=children,
                            weight=each,
                            load=_load(operation, values, result, nominal),
                            leaf=leaf,
                        )
                    )
    return found


def _prior_choices(operation: Operation, depth: int) -> int:
    """How many parameter settings share an operation's weight; `times` is fixed by the depth."""
    count = 1
    for parameter in operation.parameters:
        count *= 1 if parameter.name == "times" else len(parameter.choices)
    return count


def _by_depth(
    operation: Operation, values: tuple[Value, ...], types: tuple[Type, ...], result: Type, depth: int
) -> list[tuple[Symbol, tuple[Symbol, ...]]]:
    """Symbols of a production: stacks are counted by their number of blocks."""
    if result is not Type.STACK:
        return [(symbol(result), tuple(map(symbol, types)))]
    if "times" in operation.position:
        blocks = values[operation.position["times"]]
        assert isinstance(blocks, int)
        return [(symbol(result, blocks), tuple(map(symbol, types)))] if blocks <= depth else []
    return [
        (symbol(result, a + b), (symbol(Type.STACK, a), symbol(Type.STACK, b)))
        for a in range(1, depth)
        for b in range(1, depth - a + 1)
    ]


def _nominal(width: int, length: int) -> Shape:
    heads = max(HEADS)
    return Shape(width=width, heads=heads, key=width // heads, value=width // heads, hidden=0, length=length)


def _load(operation: Operation, values: tuple[Value, ...], result: Type, nominal: Shape) -> int:
    """The operation's own weights in eighths of D^2, rounded up. `share` counts as 1: no mixer has fewer heads."""
    if result in (Type.CHANNEL, *_OUTER):
        return 0
    heads = 1 if result is Type.STREAM else nominal.heads
    weights = operation.weights(nominal, Term(operation, values, (), result), heads)
    return ceil(EIGHTHS * weights / nominal.width**2)
