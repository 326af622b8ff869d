"""Sampling with a law: every draw finishes, is valid and in budget; nothing is rejected.

A size is drawn first, then a term of that size in proportion to the grammar's counts. While a mixer is drawn, a stream
of a type that was drawn before in it may be used again (`let`), so shared keys, gates and decays occur; sharing only
ever lowers a term's load. Draws are canonical terms.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random
from typing import TypeVar

from archloom.search_space.grammar import MIXER_LOAD, UNLIMITED, Cell, Grammar, Limits, Symbol, shared_grammar, symbol
from archloom.search_space.identity import canonical
from archloom.search_space.operations import SHARED
from archloom.search_space.terms import Term
from archloom.search_space.types import Type

Item = TypeVar("Item")


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampler:
    """Draws terms. `sharing` is the chance that a stream is taken from those already drawn in the same mixer."""

    grammar: Grammar
    load: int = MIXER_LOAD
    sharing: float = 0.35

    def __post_init__(self) -> None:
        if self.grammar.limits is not None and self.load > MIXER_LOAD:
            raise ValueError(f"load {self.load} would exceed the grammar's limits: at most {MIXER_LOAD}")

    @classmethod
    def default(
        cls, *, depth: int, max_size: int = 48, width: int = 64, length: int = 64, limits: Limits | None = None
    ) -> "Sampler":
        """The sampler of the default weights for a protocol's depth, width and longest task, within limits."""
        return cls(grammar=shared_grammar(depth, max_size, width, length, limits))

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
        return _Draw(self, rng).term(self.grammar.cell(which, size), self.load)[0]

    def _of_any_size(self, which: Symbol, rng: Random, *, max_size: int | None, load: int) -> Term:
        cells = self.grammar.cells(which, max_size=max_size, limit=load)
        if not cells:
            raise ValueError(f"no {which[0].value} has at most {max_size} operations within load {load}")
        return _Draw(self, rng).term(any_of(cells, rng), load)[0]


class _Draw:
    """One draw: `streams` holds what the mixer at hand has so far by type (None outside mixers), `again` what was
    used again, by identity."""

    __slots__ = ("again", "grammar", "random", "rng", "sharing", "streams")

    def __init__(self, sampler: Sampler, rng: Random) -> None:
        self.grammar = sampler.grammar
        self.sharing = sampler.sharing
        self.rng = rng
        self.random = rng.random
        self.streams: dict[object, list[Term]] | None = None  # by type
        self.again: set[int] = set()

    def term(self, cell: Cell, limit: int) -> tuple[Term, int]:
        """A term of the cell and its load, which is at most `limit`."""
        production, children = self.grammar.choices(cell).draw(self.random, limit)
        assert production is not None
        settings = production.settings
        chosen = 0 if len(settings) == 1 else int(self.random() * len(settings))
        if not children:
            return production.leaves[chosen], production.load
        if production.operation.scopes:
            self.streams, self.again = {}, set()
        if production.outer:
            blocks = [self.term(child, limit) for child in children]
            arguments, load = tuple([block for block, _ in blocks]), max([load for _, load in blocks])
        elif len(children) == 1:
            argument, load = self.argument(children[0], limit - production.load)
            arguments, load = (argument,), load + production.load
        else:
            arguments, load = self.arguments(children, limit, production.load)
        if production.operation.scopes:
            if self.again:
                arguments = (_tied(arguments[0], self.again),)
            self.streams = None
        return Term(production.operation, settings[chosen], arguments, production.type), load

    def arguments(self, children: tuple[Cell, ...], limit: int, load: int) -> tuple[tuple[Term, ...], int]:
        """Several arguments, and their load added to `load`."""
        first, rest = children
        argument, own = self.argument(first, limit - load - rest.least)  # the rest cannot do without its least
        load += own
        if rest.row:
            _, others = self.grammar.choices(rest).draw(self.random, limit - load)
            arguments, load = self.arguments(others, limit, load)
            return (argument, *arguments), load
        last, own = self.argument(rest, limit - load)
        return (argument, last), load + own

    def argument(self, cell: Cell, limit: int) -> tuple[Term, int]:
        """Draws an argument, or takes one of its type that this mixer has already: that costs no weights."""
        if not cell.shareable or self.streams is None:
            return self.term(cell, limit)
        known = self.streams.setdefault(cell.symbol[0], [])
        if known and self.random() < self.sharing:
            stream = any_of(known, self.rng)
            self.again.add(id(stream))
            return stream, 0
        stream, load = self.term(cell, limit)
        known.append(stream)
        return stream, load


def any_of(items: Sequence[Item], rng: Random) -> Item:
    """One of the items, with equal chances."""
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
