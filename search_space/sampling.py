"""Sampling with a law: every draw finishes, is valid and in budget; nothing is rejected.

A size is drawn first, then a term of that size in proportion to the grammar's counts. While a mixer is drawn, a stream
of a type that was drawn before in it may be used again (`let`), so shared keys, gates and decays occur; sharing only
ever lowers a term's load. Draws are canonical terms.
"""

from dataclasses import dataclass
from random import Random

from archloom.search_space.grammar import UNLIMITED, Grammar, Production, Symbol, shared_grammar, symbol
from archloom.search_space.identity import canonical
from archloom.search_space.operations import SHARED
from archloom.search_space.terms import Term
from archloom.search_space.types import SHAREABLE, Type

MIXER_LOAD = 80
"""Default limit of a mixer's weights in eighths of D^2: ten of the twelve D^2 of a block of the reference."""

Pool = dict[Type, list[Term]]


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
        return canonical(self._of_any_size(symbol(Type.STACK, depth or self.grammar.depth), rng))

    def mixer(self, rng: Random, *, max_size: int = 24) -> Term:
        """A canonical mixer of at most `max_size` operations."""
        return canonical(self._of_any_size(symbol(Type.MIXER), rng, max_size=max_size))

    def subterm(self, type_: Type, rng: Random, *, max_size: int, load: int = UNLIMITED) -> Term:
        """A term of one type (not a stack) for variation; nothing in it is shared."""
        return self._of_any_size(symbol(type_), rng, max_size=max_size, load=load)

    def _of_any_size(self, which: Symbol, rng: Random, *, max_size: int | None = None, load: int | None = None) -> Term:
        limit = self.load if load is None else load
        sizes = [n for n in self.grammar.sizes(which, limit=limit) if max_size is None or n <= max_size]
        if not sizes:
            raise ValueError(f"no {which[0].value} has at most {max_size} operations within load {limit}")
        return self._draw(which, rng.choice(sizes), limit, rng, None)[0]

    def _draw(self, which: Symbol, size: int, limit: int, rng: Random, pool: Pool | None) -> tuple[Term, int]:
        """A term and its load."""
        production, children = self.grammar.choices(which, size, limit).draw(rng)
        if production.leaf is not None:
            return production.leaf, production.load
        if production.operation.scopes:
            pool = {}
        arguments, used = [], production.load
        outer = production.type is Type.STACK or production.type is Type.BLOCK
        rest = 0 if outer else sum([self.grammar.least_load(s, n) for s, n in children])
        for child, n in children:
            if outer:
                argument, load = self._draw(child, n, limit, rng, None)
            else:
                rest -= self.grammar.least_load(child, n)
                argument, load = self._stream(child, n, limit - used - rest, rng, pool)
            arguments.append(argument)
            used += load
        return _made(production, arguments), 0 if outer else used

    def _stream(self, which: Symbol, size: int, limit: int, rng: Random, pool: Pool | None) -> tuple[Term, int]:
        """Draws an argument, or takes one of its type that this mixer has already."""
        type_ = which[0]
        if pool is None or size == 1 or type_ not in SHAREABLE:
            return self._draw(which, size, limit, rng, pool)
        known = pool.setdefault(type_, [])
        if known and rng.random() < self.sharing:
            return known[int(rng.random() * len(known))], 0
        term, load = self._draw(which, size, limit, rng, pool)
        if not term.operation.shares:
            term = Term(SHARED, (), (term,), type_)
        known.append(term)
        return term, load


def _made(production: Production, arguments: list[Term]) -> Term:
    return Term(production.operation, production.values, tuple(arguments), production.type)
