"""The weighted context-free grammar behind the algebra, derived from the table of operations, and its counting tables.

A symbol is a type; stacks are split by their depth in blocks, so that depth is exact. A production is an operation with
fixed parameter values and argument types. `Grammar.count(symbol, size)` is the total weight of all terms of that symbol
with that many operations: with every weight 1 it is their exact number, and drawing in proportion to it is uniform.

Weights are kept in budget by *load*, a mixer's own weights in eighths of D^2, rounded up operation by operation: tables
hold the least and the largest load of each (symbol, size), so a draw under a limit never has to be rejected.
"""

from bisect import bisect
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, lru_cache
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

    @property
    def outer(self) -> bool:
        """Whether it stands above mixers, where a load is the largest and not the sum of the arguments'."""
        return self.type in _OUTER


@dataclass(slots=True, kw_only=True, eq=False)
class Cell:
    """The terms of one symbol with `size` operations: their total weight and their least and largest load.

    A cell without terms has count 0. `choices` caches what may be drawn, by limit of the load.
    """

    symbol: Symbol
    size: int
    count: float = 0
    least: int = UNLIMITED
    most: int = -1
    choices: "dict[int, Choices]" = field(default_factory=dict)


Entry = tuple[Production, tuple[Cell, ...]]
"""A production and the cells of its arguments."""


@dataclass(frozen=True, slots=True)
class Choices:
    """The ways to make a term of one cell within one limit, with their cumulative weights."""

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
        self._cells = {
            which: [Cell(symbol=which, size=size) for size in range(max_size + 1)] for which in self.productions
        }
        self._fitting: dict[tuple[Symbol, int, int], list[Cell]] = {}
        for size in range(1, max_size + 1):
            for cells in self._cells.values():
                self._fill(cells[size])

    def count(self, which: Symbol, size: int) -> float:
        """Total weight of the terms of a symbol with `size` operations; their number if the grammar is uniform."""
        return self._cells[which][size].count if which in self._cells and size <= self.max_size else 0

    def cell(self, which: Symbol, size: int) -> Cell:
        """The cell of a symbol and size; a KeyError or IndexError if the tables do not reach it."""
        return self._cells[which][size]

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

    def cells(self, which: Symbol, *, max_size: int | None = None, limit: int = UNLIMITED) -> list[Cell]:
        """The cells that have a term of this symbol within the limits, by size."""
        most = self.max_size if max_size is None else min(max_size, self.max_size)
        found = self._fitting.get((which, most, limit))
        if found is None:
            fitting = [cell for cell in self._cells[which][: most + 1] if cell.count and cell.least <= limit]
            found = self._fitting[which, most, limit] = fitting
        return found

    def choices(self, cell: Cell, limit: int) -> Choices:
        """What may stand in a cell so that its load stays within `limit`.

        A limit that binds is lowered to a whole number of D^2, but never below the least load, so few tables are made.
        """
        limit = UNLIMITED if limit >= cell.most else max(cell.least, limit - limit % EIGHTHS)
        known = cell.choices.get(limit)
        if known is None:
            known = cell.choices[limit] = self._make_choices(cell, limit)
        return known

    def _fill(self, cell: Cell) -> None:
        for weight, (production, children) in self._ways(cell):
            cell.count += weight
            cell.least = min(cell.least, _joined(production, [child.least for child in children]))
            cell.most = max(cell.most, _joined(production, [child.most for child in children]))

    def _make_choices(self, cell: Cell, limit: int) -> Choices:
        within = [
            (weight, entry)
            for weight, entry in self._ways(cell)
            if _joined(entry[0], [child.least for child in entry[1]]) <= limit
        ]
        if not within:
            raise ValueError(f"no {cell.symbol[0].value} has {cell.size} operations within load {limit}")
        return Choices(tuple(accumulate(weight for weight, _ in within)), tuple(entry for _, entry in within))

    def _ways(self, cell: Cell) -> Iterator[tuple[float, Entry]]:
        """(weight, entry) of every production and split of the size that has a term."""
        for production in self.productions[cell.symbol]:
            columns = [self._cells[child] for child in production.children]
            for sizes in _splits(cell.size - 1, len(columns)):
                children = tuple([column[size] for column, size in zip(columns, sizes, strict=True)])
                weight = production.weight
                for child in children:
                    weight *= child.count
                if weight:
                    yield weight, (production, children)


def _joined(production: Production, loads: Sequence[int]) -> int:
    """The load of a production whose arguments have these loads."""
    return max(loads, default=0) if production.outer else production.load + sum(loads)


@lru_cache(maxsize=16)
def shared_grammar(depth: int, max_size: int, width: int, length: int) -> Grammar:
    """The default-weight grammar of one depth, size and nominal shape, built once per process."""
    return Grammar(depth=depth, max_size=max_size, width=width, length=length)


@cache
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
