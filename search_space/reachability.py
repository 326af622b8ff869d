"""How many mutations lie between two architectures: a path that is found, so an upper bound of the shortest.

Every step of a path is one edit of the mutation set and every term on it is valid and in budget. A step that takes
fresh subterms takes parts of the goal: of up to FRESH_SIZE operations, all of which the sampler draws and none of which
is shared, so the edit could have drawn each with positive probability, and it counts as one.

The search is best-first by how far the parts of a term are from those of the goal (its operations, and which stands
where in which, with sharing and with all `let`s written out), plus what the path has cost so far. It inserts no
operation of which the goal has no more, and ends when it has seen MAX_SEEN terms.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from heapq import heappop, heappush
from itertools import combinations, product

from archloom.search_space.edits import KINDS, OUTER, Option, Values, site_of
from archloom.search_space.grammar import symbol
from archloom.search_space.identity import canonical
from archloom.search_space.operations import Operation
from archloom.search_space.sampling import Sampler
from archloom.search_space.stacks import layers
from archloom.search_space.terms import Term, TermError, Value, places, replace, size, substitute, walk
from archloom.search_space.types import Type
from archloom.search_space.variation import FRESH_SIZE, fits

MAX_SEEN = 40_000
STEP = 0.5
"""What a step counts beside one operation too many: little, so that the search goes straight before it goes short."""
SHARING = 0.3
"""Weight of the form with its `let`s against that without: what is to be tied must stand there first."""
TELLING_APART = ("hybrid", "duplicate")
"""Kinds that make blocks differ, of no use where those of the goal do not."""
PARTS_OF_AN_OPERATION = 4
"""An operation in the wrong place is one part too many itself, and changes three of the pairs around it."""


def path(start: Term, goal: Term, *, sampler: Sampler) -> list[Term] | None:
    """Canonical architectures from `start` to `goal`, each one edit from the last; None if none is found.

    Architectures of other depth are not reached.
    """
    start, goal = canonical(start), canonical(goal)
    parts = _Parts(goal, sampler)
    before: dict[str, Term | None] = {start.text: None}
    shared, apart = _profile(goal), _profile(_unshared(goal))
    ahead = [(0.0, 0, start.text, start)]
    while ahead and len(before) < MAX_SEEN:
        _, steps, _, here = heappop(ahead)
        if here.text == goal.text:
            return _trail(here, before)
        for child in _towards(here, parts, sampler):
            if child.text not in before:
                before[child.text] = here
                tied, untied = _away(_profile(child), shared), _away(_profile(_unshared(child)), apart)
                away = SHARING * tied + (1 - SHARING) * untied
                rank = away + STEP * (steps + 1)
                heappush(ahead, (rank, steps + 1, child.text, child))
    return None


def _trail(last: Term, before: dict[str, Term | None]) -> list[Term]:
    found: list[Term] = []
    here: Term | None = last
    while here is not None:
        found.append(here)
        here = before[here.text]
    return found[::-1]


Profile = Counter[tuple[object, ...]]
"""The operations of a term with their values, the pairs of an operation and what stands in it where, and the pairs of
uses that a `let` joins."""


def _profile(term: Term) -> Profile:
    found: Profile = Counter()
    uses: dict[int, list[tuple[str, int]]] = {}
    pending = [term]
    while pending:
        node = pending.pop()
        operation = node.operation
        found[operation, node.values] += 1
        for index, argument in enumerate(node.arguments):
            found[operation, index, argument.operation] += 1
            if argument.operation.shares:
                of_one = uses.setdefault(id(argument), [])
                of_one.append((operation.name, index))
                if len(of_one) > 1:
                    continue  # looked into before
            pending.append(argument)
    for of_one in uses.values():
        found.update(combinations(sorted(of_one), 2))
    return found


def _away(one: Profile, other: Profile) -> float:
    """How many operations two profiles are apart, about."""
    keys = one.keys() | other.keys()
    return sum(abs(one.get(key, 0) - other.get(key, 0)) for key in keys) / PARTS_OF_AN_OPERATION


class _Parts:
    """What a goal is made of: its subterms that could be drawn, by type, and the values its operations have."""

    def __init__(self, goal: Term, sampler: Sampler) -> None:
        self.counts = Counter(node.operation for node in walk(_unshared(goal)))
        self.values: dict[Operation, list[set[Value]]] = {}
        drawable: dict[Type, dict[str, Term]] = {}
        for node in walk(goal):
            if node.operation.shares:
                continue
            known = self.values.setdefault(node.operation, [set() for _ in node.values])
            for values, value in zip(known, node.values, strict=True):
                values.add(value)
            cells = sampler.grammar.cells(symbol(node.type)) if node.type not in OUTER else []
            if cells:
                part = _reduced(_unshared(node), max(FRESH_SIZE, cells[0].size))
                if part is not None and all(each.operation.weight > 0 for each in walk(part)):
                    drawable.setdefault(part.type, {})[part.key] = part
        self.fresh = {type_: tuple(terms.values()) for type_, terms in drawable.items()}
        self.alike = len({block.text for block in layers(goal)}) == 1

    def ways(self, option: Option) -> Iterator[tuple[Values, Sequence[Term]]]:
        """The settings and fresh subterms of an option that the goal has too."""
        settings = option.settings
        if option.operation in self.values:
            known = self.values[option.operation]
            settings = tuple(
                tuple(value for value in choices if len(choices) == 1 or value in values)
                for choices, values in zip(settings, known, strict=True)
            )
        for values in product(*settings):
            for terms in product(*(self.fresh.get(type_, ()) for type_ in option.needs)):
                yield values, terms


def _reduced(term: Term, limit: int) -> Term | None:
    """The term with as few operations hoisted away as bring it to `limit` operations; None if hoisting cannot."""
    while size(term) > limit:
        smaller = [
            replace(term, place.path, argument)
            for place in places(term)
            for argument in place.term.arguments
            if argument.type is place.term.type
        ]
        if not smaller:
            return None
        term = max(smaller, key=lambda each: (size(each) <= limit, -abs(size(each) - limit), each.key))
    return term


def _unshared(term: Term) -> Term:
    """The term with every `let` written out, as a mixer that shares nothing would have it."""
    return substitute(term, lambda node: _unshared(node.arguments[0]) if node.operation.shares else None)


def _towards(term: Term, parts: _Parts, sampler: Sampler) -> Iterator[Term]:
    """The neighbours that take from the goal whatever they take anew."""
    site = site_of(term, sampler.grammar)
    counts = Counter(node.operation for node in walk(term))
    for kind, (_, options) in KINDS.items():
        if parts.alike and kind in TELLING_APART:
            continue
        for place in site.spots:
            for option in options(site, place):
                new = option.operation
                if new not in (None, place.term.operation) and counts[new] >= parts.counts[new]:
                    continue  # the goal has no more of it
                for values, fresh in parts.ways(option):
                    try:
                        child = canonical(option.make(values, fresh))
                    except TermError:
                        continue
                    if fits(child, site, sampler):
                        yield child
