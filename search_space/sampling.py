"""Sampling with a law: every draw finishes, is valid and in budget; nothing is rejected.

A size is drawn first, then a term of that size in proportion to the grammar's counts. While a mixer is drawn, a stream
of a type that was drawn before in it may be used again (`let`), so shared keys, gates and decays occur; sharing only
ever lowers a term's load. Draws are canonical terms.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from random import Random
from typing import TypeVar

from archloom.search_space.grammar import UNLIMITED, Cell, Entry, Grammar, Symbol, shared_grammar, symbol
from archloom.search_space.identity import canonical
from archloom.search_space.operations import SHARED
from archloom.search_space.terms import Term
from archloom.search_space.types import SHAREABLE, Type

MIXER_LOAD = 80
"""Default limit of a mixer's weights in eighths of D^2: ten of the twelve D^2 of a block of the reference."""

Item = TypeVar("Item")


@dataclass(slots=True)
class _Drawn:
    """The streams of one mixer so far, by type, and the identities of those that were used again."""

    streams: dict[Type, list[Term]] = field(default_factory=dict)
    again: set[int] = field(default_factory=set)


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampler:
    """Draws terms. `sharing` is the chance that a stream is taken from those already drawn in the same mixer."""

    grammar: Grammar
    load: int = MIXER_LOAD
    sharing: float = 0.35

    @classmethod
    def default(cls, *, depth: int, max_size: int = 48, width: int = 64, length: int = 64) -> "Sampler":
        """The sampler of the default weights for a protocol's depth, width and longest task."""
        return cls(grammar=shared_grammar(depth, max_size, width, length))

    def architecture(self, rng: Random, *, depth: int | None = None) -> Term:
        """A canonical architecture of exactly `depth` blocks (default: the grammar's)."""
        which = symbol(Type.STACK, depth or self.grammar.depth)
        return canonical(self._of_any_size(which, rng, max_size=None, load=self.load))

    def mixer(self, rng: Random, *, max_size: int = 24) -> Term:
        """A canonical mixer of at most `max_size` operations."""
        return canonical(self._of_any_size(symbol(Type.MIXER), rng, max_size=max_size, load=self.load))

    def subterm(self, type_: Type, rng: Random, *, max_size: int, load: int = UNLIMITED) -> Term:
        """A term of one type (not a stack) for variation, as drawn. Streams are shared only inside whole mixers."""
        return self._of_any_size(symbol(type_), rng, max_size=max_size, load=load)

    def of_size(self, which: Symbol, size: int, rng: Random) -> Term:
        """A term of exactly `size` operations before sharing, as drawn: in proportion to weight if `sharing` is 0."""
        return self._draw(self.grammar.cell(which, size), self.load, rng, None)[0]

    def _of_any_size(self, which: Symbol, rng: Random, *, max_size: int | None, load: int) -> Term:
        cells = self.grammar.cells(which, max_size=max_size, limit=load)
        if not cells:
            raise ValueError(f"no {which[0].value} has at most {max_size} operations within load {load}")
        return self._draw(_any_of(cells, rng), load, rng, None)[0]

    def _draw(self, cell: Cell, limit: int, rng: Random, drawn: _Drawn | None) -> tuple[Term, int]:
        """A term of the cell and its load, which is at most `limit`."""
        entry = self.grammar.choices(cell, limit).draw(rng)
        production = entry[0]
        if production.leaf is not None:
            return production.leaf, production.load
        if production.operation.scopes:
            return self._mixer(entry, limit, rng)
        if production.outer:
            blocks = tuple([self._draw(child, limit, rng, None)[0] for child in entry[1]])
            return Term(production.operation, production.values, blocks, production.type), 0
        arguments, load = self._arguments(entry, limit, rng, drawn)
        return Term(production.operation, production.values, arguments, production.type), load

    def _mixer(self, entry: Entry, limit: int, rng: Random) -> tuple[Term, int]:
        drawn = _Drawn()
        arguments, load = self._arguments(entry, limit, rng, drawn)
        if drawn.again:
            arguments = (_tied(arguments[0], drawn.again),)
        return Term(entry[0].operation, entry[0].values, arguments, entry[0].type), load

    def _arguments(self, entry: Entry, limit: int, rng: Random, drawn: _Drawn | None) -> tuple[tuple[Term, ...], int]:
        """The arguments of an operation inside a mixer, and its load with theirs."""
        production, children = entry
        load = production.load
        if len(children) == 1:
            argument, own = self._stream(children[0], limit - load, rng, drawn)
            return (argument,), load + own
        arguments = []
        rest = sum([child.least for child in children])  # what the arguments still to come cannot do without
        for child in children:
            rest -= child.least
            argument, own = self._stream(child, limit - load - rest, rng, drawn)
            arguments.append(argument)
            load += own
        return tuple(arguments), load

    def _stream(self, cell: Cell, limit: int, rng: Random, drawn: _Drawn | None) -> tuple[Term, int]:
        """Draws an argument, or takes one of its type that this mixer has already: that costs no weights."""
        type_ = cell.symbol[0]
        if drawn is None or cell.size == 1 or type_ not in SHAREABLE:
            return self._draw(cell, limit, rng, drawn)
        known = drawn.streams.setdefault(type_, [])
        if known and rng.random() < self.sharing:
            stream = _any_of(known, rng)
            drawn.again.add(id(stream))
            return stream, 0
        stream, load = self._draw(cell, limit, rng, drawn)
        known.append(stream)
        return stream, load


def _any_of(items: Sequence[Item], rng: Random) -> Item:
    return items[int(rng.random() * len(items))]


def _tied(body: Term, again: set[int]) -> Term:
    """The body with the streams that were used again made shared nodes."""
    ties: dict[int, Term] = {}

    def visit(node: Term) -> Term:
        if not node.arguments:
            return node
        tie = ties.get(id(node))
        if tie is not None:
            return tie
        arguments = tuple([visit(argument) for argument in node.arguments])
        result = Term(node.operation, node.values, arguments, node.type)
        if id(node) in again:
            result = ties[id(node)] = Term(SHARED, (), (result,), node.type)
        return result

    return visit(body)
