"""The weighted context-free grammar behind the algebra, derived from the table of operations, and its counting tables.

A symbol is a type; stacks are split by their depth in blocks, so that depth is exact. A production is an operation with
fixed argument types and the parameter settings that weigh the same. `Grammar.count(symbol, size)` is the total weight
of all terms of that symbol with that many operations: with every weight 1 it is their exact number, and drawing in
proportion to it is uniform. Three arguments and more are counted as the first and a row of the rest, which has cells of
its own: so every way to make a term splits its size in two at most.

Weights are kept in budget by *load*, a mixer's own weights in eighths of D^2, rounded up operation by operation: tables
hold the least and the largest load of each (symbol, size), so a draw under a limit never has to be rejected. Where
`Limits` ask for more, the load of an operation is the largest of its shares of what is limited, each block having an
equal share of the whole: what is within the load is then within every limit, and sampling is the same as without.
"""

from bisect import bisect
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache, partial
from itertools import accumulate, product
from math import ceil
from operator import itemgetter

from archloom.search_space.bounds import around, bounds
from archloom.search_space.costs import BYTES, Costs, costs, default_widths
from archloom.search_space.operations import HEADS, OPERATIONS, Operation, Shape
from archloom.search_space.patterns import CAUSAL, Pattern
from archloom.search_space.terms import Term, Value
from archloom.search_space.types import SHAREABLE, Type

Symbol = tuple[Type, int]
"""A type and, for stacks, the number of blocks (0 otherwise)."""

Row = tuple[Symbol, ...]
"""Two or more arguments in order."""

EIGHTHS = 8
MIXER_LOAD = 80
"""Default limit of a mixer's weights in eighths of D^2: ten of the twelve D^2 of a block of the reference."""
UNLIMITED = 1 << 30
UNDRAWN = UNLIMITED >> 10
"""A load above every limit but UNLIMITED, of which a term may hold many."""
_OUTER = (Type.STACK, Type.BLOCK)


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Limits of a whole architecture at nominal widths (inner width D, channel mixers 4 D); None: no limit.

    `flops` forward per token at the protocol's length, `state_bytes` per decoded sequence.
    """

    parameters: int | None = None
    flops: int | None = None
    state_bytes: int | None = None

    def allow(self, found: Costs, length: int) -> bool:
        """Whether these costs, at `length` tokens, are within the limits."""
        within = (
            (found.parameters, self.parameters),
            (found.flops, None if self.flops is None else self.flops * length),
            (found.state_bytes, self.state_bytes),
        )
        return all(most is None or cost <= most for cost, most in within)


@dataclass(frozen=True, slots=True, kw_only=True)
class Production:
    """One way to make a symbol: an operation with any of `settings`, whose loads are equal; `weight` is that of all.

    `leaves` are the ready terms of a production without arguments.
    """

    operation: Operation
    settings: tuple[tuple[Value, ...], ...]
    type: Type
    children: tuple[Symbol, ...]
    weight: float
    load: int
    leaves: tuple[Term, ...]

    outer: bool = field(init=False)
    """Whether its arguments are blocks or stacks: its load is then the largest of theirs and not the sum."""

    def __post_init__(self) -> None:
        outer = bool(self.children) and all(type_ in _OUTER for type_, _ in self.children)
        object.__setattr__(self, "outer", outer)


@dataclass(slots=True, kw_only=True, eq=False)
class Cell:
    """The terms of one symbol, or the arguments of one row, with `size` operations: their total weight and their least
    and largest load.

    A cell without terms has count 0. `choices` caches what may be drawn.
    """

    symbol: Symbol | Row
    size: int
    count: float = 0
    least: int = UNLIMITED
    most: int = -1
    choices: "Choices | None" = None
    row: bool = field(init=False)
    shareable: bool = field(init=False)

    def __post_init__(self) -> None:
        self.row = isinstance(self.symbol[0], tuple)
        self.shareable = self.size > 1 and self.symbol[0] in SHAREABLE


Load = Callable[[Operation, tuple[Value, ...], Type], int]

Entry = tuple[Production | None, tuple[Cell, ...]]
"""A production and the cells of its arguments, the last of which may be that of a row; no production for a row."""


@dataclass(frozen=True, slots=True)
class Choices:
    """The ways to make a term of one cell, those of the least load first, with their cumulative weights."""

    leasts: tuple[int, ...]
    cumulative: tuple[float, ...]
    entries: tuple[Entry, ...]

    def draw(self, random: Callable[[], float], limit: int) -> Entry:
        """A way whose load can stay within `limit`, in proportion to its weight; `random` draws from [0, 1)."""
        last = bisect(self.leasts, limit) - 1
        if last < 0:
            raise ValueError(f"nothing here has a load within {limit}: the least is {self.leasts[0]}")
        return self.entries[bisect(self.cumulative, random() * self.cumulative[last], 0, last)]


def symbol(type_: Type, blocks: int = 0) -> Symbol:
    return (type_, blocks)


class Grammar:
    """Counting tables up to `max_size` operations and `depth` blocks.

    `weights` replaces the prior weight of operations by name; `uniform=True` gives every operation with a positive
    prior the weight 1 and every parameter value the same, so that counts are exact integers. Operations that have no
    meaning under `pattern` are left out. Loads are counted at model width `width` and `length` tokens, with as many
    heads as there can be. `limits` makes loads shares of them, in units of which MIXER_LOAD is the whole.
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
        pattern: Pattern = CAUSAL,
        limits: Limits | None = None,
    ) -> None:
        self.depth = depth
        self.max_size = max_size
        self.limits = limits
        self._nominal = _nominal(width, length)
        self._own_load: dict[tuple[Operation, tuple[Value, ...], Type], int] = {}
        load = _loader(limits, depth, self._nominal) if limits else partial(_load, nominal=self._nominal)
        self.productions = _productions(depth, load, dict(weights or {}), uniform, pattern)
        counted: list[Symbol | Row] = [*self.productions, *_rows(self.productions)]
        self._cells = {which: [Cell(symbol=which, size=size) for size in range(max_size + 1)] for which in counted}
        self._least_terms: dict[Type, list[Term]] = {}
        self._fitting: dict[tuple[Symbol, int, int], list[Cell]] = {}
        for size in range(1, max_size + 1):
            for cells in self._cells.values():
                self._fill(cells[size])

    def count(self, which: Symbol, size: int) -> float:
        """Total weight of the terms of a symbol with `size` operations; their number if the grammar is uniform."""
        return self._cells[which][size].count if which in self._cells and size <= self.max_size else 0

    def within_limits(self, architecture: Term) -> bool:
        """Whether an architecture costs no more than the limits, as `costs` counts."""
        if self.limits is None:
            return True
        width, length = self._nominal.width, self._nominal.length
        return self.limits.allow(costs(architecture, default_widths(width), length), length)

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

    def least_terms(self, type_: Type) -> list[Term]:
        """Every term of a type (not a stack) with the fewest operations that such a term can have."""
        known = self._least_terms.get(type_)
        if known is None:
            cells = self.cells(symbol(type_))
            known = self._least_terms[type_] = list(self._terms(cells[0])) if cells else []
        return known

    def _terms(self, cell: Cell) -> Iterator[Term]:
        """Every term of a cell."""
        for _, (production, children) in self.ways(cell):
            assert production is not None
            for values in production.settings:
                for arguments in self._arguments(children):
                    yield Term(production.operation, values, arguments, production.type)

    def _arguments(self, cells: Sequence[Cell]) -> Iterator[tuple[Term, ...]]:
        """Every choice of arguments from cells, the last of which may be that of a row."""
        if not cells:
            yield ()
        elif cells[-1].row:
            for _, (_, children) in self.ways(cells[-1]):
                yield from self._arguments((*cells[:-1], *children))
        else:
            yield from product(*map(self._terms, cells))

    def cells(self, which: Symbol, *, max_size: int | None = None, limit: int = UNLIMITED) -> list[Cell]:
        """The cells that have a term of this symbol within the limits, by size."""
        most = self.max_size if max_size is None else min(max_size, self.max_size)
        found = self._fitting.get((which, most, limit))
        if found is None:
            fitting = [cell for cell in self._cells.get(which, ())[: most + 1] if cell.count and cell.least <= limit]
            found = self._fitting[which, most, limit] = fitting
        return found

    def choices(self, cell: Cell) -> Choices:
        """What may stand in a cell."""
        if cell.choices is None:
            weighed = sorted(
                (
                    (_joined(made, [child.least for child in children]), weight, (made, children))
                    for weight, (made, children) in self.ways(cell)
                ),
                key=itemgetter(0),
            )
            leasts, weights, entries = zip(*weighed, strict=True)
            cell.choices = Choices(leasts, tuple(accumulate(weights)), entries)
        return cell.choices

    def _fill(self, cell: Cell) -> None:
        for weight, (production, children) in self.ways(cell):
            cell.count += weight
            cell.least = min(cell.least, _joined(production, [child.least for child in children]))
            cell.most = max(cell.most, _joined(production, [child.most for child in children]))

    def ways(self, cell: Cell) -> Iterator[tuple[float, Entry]]:
        """(weight, entry) of every production and split of the size that has a term."""
        which = cell.symbol
        if cell.row:
            for weight, cells in self._split(which, cell.size):  # type: ignore[arg-type]
                yield weight, (None, cells)
            return
        for production in self.productions[which]:  # type: ignore[index]
            for weight, cells in self._split(production.children, cell.size - 1):
                yield production.weight * weight, (production, cells)

    def _split(self, row: Row, size: int) -> Iterator[tuple[float, tuple[Cell, ...]]]:
        """The cells that arguments with `size` operations in all can have: the first's, and that of the rest."""
        match row:
            case ():
                if size == 0:
                    yield 1, ()
            case (only,):
                cell = self._cells[only][size]
                if cell.count:
                    yield cell.count, (cell,)
            case (first, *others):
                rest = self._cells[others[0] if len(others) == 1 else tuple(others)]
                for head in self._cells[first][1:size]:
                    tail = rest[size - head.size]
                    if head.count and tail.count:
                        yield head.count * tail.count, (head, tail)


def _rows(productions: Mapping[Symbol, Sequence[Production]]) -> set[Row]:
    """The rows of arguments behind first ones, and behind those."""
    return {
        each.children[first:]
        for ways in productions.values()
        for each in ways
        for first in range(1, len(each.children) - 1)
    }


def _joined(production: Production | None, loads: Sequence[int]) -> int:
    """The load of a production, or of a row, whose arguments have these loads."""
    if production is None:
        return sum(loads)
    return max(loads, default=0) if production.outer else production.load + sum(loads)


@lru_cache(maxsize=16)
def shared_grammar(depth: int, max_size: int, width: int, length: int, limits: Limits | None = None) -> Grammar:
    """The default-weight grammar of one depth, size, nominal shape and limits, built once per process."""
    return Grammar(depth=depth, max_size=max_size, width=width, length=length, limits=limits)


def _productions(
    depth: int, load: Load, weights: dict[str, float], uniform: bool, pattern: Pattern
) -> dict[Symbol, list[Production]]:
    found: dict[tuple[Operation, Type, Symbol, tuple[Symbol, ...], int], list[tuple[Value, ...]]] = {}
    for operation in OPERATIONS.values():
        weight = weights.get(operation.name, operation.weight)
        if weight <= 0 or operation.weight <= 0 or pattern not in operation.patterns:
            continue
        for values in product(*(parameter.drawn for parameter in operation.parameters)):
            for types, result in operation.signatures.items():
                own = load(operation, values, result)
                for made, children in _by_depth(operation, values, types, result, depth):
                    found.setdefault((operation, result, made, children, own), []).append(values)
    productions: dict[Symbol, list[Production]] = {}
    for (operation, result, made, children, own), settings in found.items():
        each = 1 if uniform else weights.get(operation.name, operation.weight) / _prior_choices(operation)
        leaves = () if children else tuple(Term(operation, values, (), result) for values in settings)
        productions.setdefault(made, []).append(
            Production(
                operation=operation,
                settings=tuple(settings),
                type=result,
                children=children,
                weight=each * len(settings),
                load=own,
                leaves=leaves,
            )
        )
    return _finishable(productions)


def _finishable(productions: dict[Symbol, list[Production]]) -> dict[Symbol, list[Production]]:
    """Without productions that need a symbol nothing makes."""
    while True:
        kept = {
            made: [each for each in ways if all(child in productions for child in each.children)]
            for made, ways in productions.items()
        }
        kept = {made: ways for made, ways in kept.items() if ways}
        if sum(map(len, kept.values())) == sum(map(len, productions.values())):
            return kept
        productions = kept


def _prior_choices(operation: Operation) -> int:
    """How many parameter settings share an operation's weight; `times` is fixed by the depth."""
    count = 1
    for parameter in operation.parameters:
        count *= 1 if parameter.name == "times" else len(parameter.drawn)
    return count


def _by_depth(
    operation: Operation, values: tuple[Value, ...], types: tuple[Type, ...], result: Type, depth: int
) -> list[tuple[Symbol, tuple[Symbol, ...]]]:
    """Symbols of a production: blocks and stacks are counted by their number of plain blocks."""
    if result not in _OUTER:
        return [(symbol(result), tuple(map(symbol, types)))]
    if types == (Type.STACK,):
        return [(symbol(result, n), (symbol(Type.STACK, n),)) for n in range(2, depth + 1)]
    if result is Type.BLOCK:
        return [(symbol(result, 1), tuple(map(symbol, types)))]
    if "times" not in operation.position:
        sizes = [(a, b) for a in range(1, depth) for b in range(1, depth - a + 1)]
        return [(symbol(result, a + b), (symbol(Type.STACK, a), symbol(Type.STACK, b))) for a, b in sizes]
    times = values[operation.position["times"]]
    assert isinstance(times, int)
    if len(types) > 1:  # a hybrid of plain blocks
        return [(symbol(result, times), tuple(symbol(each, 1) for each in types))] if times <= depth else []
    return [(symbol(result, times * n), (symbol(Type.BLOCK, n),)) for n in range(1, depth // times + 1)]


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


def _loader(limits: Limits, depth: int, nominal: Shape) -> Load:
    """The load of an operation as the largest of its shares of the limits of one block.

    What blocks made of a stack can cost beside the blocks in them is set aside first. An operation without a finite
    bound gets a load that no draw within limits has room for.
    """
    known = bounds(nominal.width, nominal.length)
    outer = around(depth, nominal.width)
    whole = (
        None if limits.parameters is None else limits.parameters - nominal.width - outer.parameters,  # the final norm
        None if limits.flops is None else limits.flops - outer.flops,
        None if limits.state_bytes is None else limits.state_bytes // BYTES - outer.state,
    )
    per_block = [None if each is None else max(1, each // depth) for each in whole]

    def load(operation: Operation, values: tuple[Value, ...], result: Type) -> int:
        costs = known[operation, values, result]
        shares = [
            -(-MIXER_LOAD * cost // most) for cost, most in zip(costs, per_block, strict=True) if most is not None
        ]
        return min(UNDRAWN, max(_load(operation, values, result, nominal), *shares))

    return load
