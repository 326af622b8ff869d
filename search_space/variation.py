"""Variation: mutation and crossover whose children are valid, in budget, and different from the parent by hash.

A try of a mutation draws a kind, a place and one of the kind's options there; `mutate` tries until a child passes.
`rates` reports what became of the tries of each kind. Crossover prefers homologous places: it lays the parents on each
other from the root down and exchanges what differs between them there.
"""

from bisect import bisect
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import Enum
from itertools import accumulate
from random import Random
from typing import NamedTuple

from archloom.search_space.edits import KINDS, ON_LETS, ON_PAIRS, ON_STACKS, Site, accepted, site_of
from archloom.search_space.identity import canonical, term_id
from archloom.search_space.sampling import Sampler, any_of
from archloom.search_space.terms import Path, Place, Term, TermError, depth, places, replace, walk
from archloom.search_space.types import Type

__all__ = ["FRESH_SIZE", "KINDS", "Child", "Outcome", "crossover", "fits", "in_budget", "mutate", "rates"]

TRIES = 200
ALIGNED_TRIES = 12
ANYWHERE_TRIES = 50
INSIDE = 0.7
"""Share of aligned tries that exchange parts inside a region where the parents diverge, and not a whole region."""
FRESH_SIZE = 16
"""Largest freshly drawn subterm, in operations: softmax attention as a whole mixer takes fifteen."""
FRESH_MEAN = 4.0
"""About the mean of the largest size that a fresh subterm may have: small ones are the rule."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Child:
    """A canonical term and the operator that made it: a mutation kind or "crossover"."""

    term: Term
    operator: str


class Outcome(Enum):
    """What became of one try of a mutation."""

    ACCEPTED = "accepted"
    NO_PLACE = "no place"  # the kind has no option at the place it was tried
    UNCHANGED = "no change"
    ILL_TYPED = "ill-typed"
    OVER_BUDGET = "over budget"  # or of another depth


_NAMES = list(KINDS)
_CUMULATIVE = list(accumulate(share for share, _ in KINDS.values()))


class _Try(NamedTuple):
    outcome: Outcome
    child: Term | None = None


def mutate(parent: Term, sampler: Sampler, rng: Random) -> Child:
    """One edit of an architecture. The child's id differs from the parent's and its budget holds."""
    parent = canonical(parent)
    site = site_of(parent, sampler.grammar)
    for _ in range(TRIES):
        kind = _NAMES[bisect(_CUMULATIVE, rng.random() * _CUMULATIVE[-1])]
        child = _tried(kind, site, sampler, rng).child
        if child is not None:
            return Child(term=child, operator=kind)
    return Child(term=_different(parent, sampler, rng), operator="redraw")


def rates(parents: Sequence[Term], sampler: Sampler, rng: Random, *, tries: int) -> dict[str, dict[Outcome, float]]:
    """What share of `tries` tries of each kind, spread over the parents, had which outcome."""
    sites = [site_of(canonical(parent), sampler.grammar) for parent in parents]
    report = {}
    for kind in KINDS:
        seen = Counter(_tried(kind, sites[n % len(sites)], sampler, rng).outcome for n in range(tries))
        report[kind] = {outcome: seen[outcome] / tries for outcome in Outcome}
    return report


def crossover(mother: Term, father: Term, sampler: Sampler, rng: Random) -> Child:
    """The mother with one subterm replaced by one of the father's, at homologous places if the parents have any.

    The child differs from both; where no such child is found, the mother is mutated.
    """
    mother, father = canonical(mother), canonical(father)
    site = site_of(mother, sampler.grammar)
    regions = list(_aligned(mother, father, ()))
    diverging = [region for region in regions if region.mother.operation is not region.father.operation]
    for _ in range(ALIGNED_TRIES if regions else 0):
        inside = diverging and rng.random() < INSIDE
        region = any_of(diverging if inside else regions, rng)
        spots, donors = places(region.mother), places(region.father)
        if not inside:  # the whole region, with the sharing in it
            spots, donors = spots[:1], donors[:1]
        child = _crossed(site, father, region.path, spots, donors, sampler, rng)
        if child is not None:
            return Child(term=child, operator="crossover")
    donors = site_of(father, sampler.grammar).spots
    for _ in range(ANYWHERE_TRIES):
        child = _crossed(site, father, (), site.spots, donors, sampler, rng)
        if child is not None:
            return Child(term=child, operator="crossover")
    return mutate(mother, sampler, rng)


def fits(child: Term, site: Site, sampler: Sampler) -> bool:
    """Whether an edited architecture has kept its depth, which is the protocol's, and is in budget."""
    return depth(child) == site.depth <= sampler.grammar.depth and _affordable(child, sampler)


def in_budget(architecture: Term, sampler: Sampler) -> bool:
    """Whether size, depth, the load of every mixer, and what the sampler limits besides are within its limits."""
    return depth(architecture) <= sampler.grammar.depth and _affordable(architecture, sampler)


def _affordable(architecture: Term, sampler: Sampler) -> bool:
    """Whether everything but its depth is in budget."""
    grammar = sampler.grammar
    count = 0

    def within(term: Term) -> bool:
        nonlocal count
        if term.type is not Type.MIXER:
            count += 1
            return all(within(argument) for argument in term.arguments)
        nodes = [node for node in walk(term) if not node.operation.shares]
        count += len(nodes)
        return grammar.load(nodes) <= sampler.load

    return within(architecture) and count <= grammar.max_size and grammar.within_limits(architecture)


def _tried(kind: str, site: Site, sampler: Sampler, rng: Random) -> _Try:
    """One try of a kind at a place drawn for it."""
    spots = site.spots
    if kind in ON_STACKS:
        spots = [place for place in spots if place.term.type is Type.STACK]
    elif kind in ON_LETS:
        spots = [place for place in spots if place.term.operation.shares]
    elif kind in ON_PAIRS:
        spots = [place for place in spots if len(place.term.arguments) == 2]
    options = KINDS[kind][1](site, any_of(spots, rng)) if spots else []
    if not options:
        return _Try(Outcome.NO_PLACE)
    option = any_of(options, rng)
    values = tuple([any_of(choices, rng) for choices in option.settings])
    try:
        fresh = [_fresh(type_, sampler, rng) for type_ in option.needs]
        child = canonical(option.make(values, fresh))
    except TermError:
        return _Try(Outcome.ILL_TYPED)
    return _judged(child, site, sampler)


def _judged(child: Term, site: Site, sampler: Sampler) -> _Try:
    if not fits(child, site, sampler):
        return _Try(Outcome.OVER_BUDGET)
    if child.text == site.root.text:
        return _Try(Outcome.UNCHANGED)
    return _Try(Outcome.ACCEPTED, child)


def _fresh(type_: Type, sampler: Sampler, rng: Random) -> Term:
    cells = sampler.grammar.cells((type_, 0))
    if not cells:
        raise TermError(f"nothing makes a {type_.value} here")
    least = cells[0].size
    drawn = 1 + int(rng.expovariate(1 / FRESH_MEAN))
    return sampler.subterm(type_, rng, max_size=max(least, min(drawn, FRESH_SIZE)))


class _Region(NamedTuple):
    """Homologous subterms that differ: where the mother's stands, and both."""

    path: Path
    mother: Term
    father: Term


def _aligned(mother: Term, father: Term, path: Path) -> Iterator[_Region]:
    """The regions of two parents that answer each other and differ, from the largest to the smallest.

    Arguments of one operation answer each other in order. Where the operations differ, what one parent has around the
    other's operation is stepped over once.
    """
    if mother.key == father.key:
        return
    if path and mother.type is not Type.STACK:
        yield _Region(path, mother, father)
    if mother.operation is father.operation or mother.type is father.type is Type.STACK:
        for index, (one, other) in enumerate(zip(mother.arguments, father.arguments, strict=False)):
            yield from _aligned(one, other, (*path, index))
        return
    for index, argument in enumerate(mother.arguments):
        if argument.operation is father.operation:
            yield from _aligned(argument, father, (*path, index))
            return
    for argument in father.arguments:
        if argument.operation is mother.operation:
            yield from _aligned(mother, argument, path)
            return


def _crossed(
    site: Site,
    father: Term,
    path: Path,
    spots: Sequence[Place],
    donors: Sequence[Place],
    sampler: Sampler,
    rng: Random,
) -> Term | None:
    """The mother with a donor at one of the spots below a path, if that is a new candidate in budget."""
    where = (*path, *any_of(spots, rng).path)
    if not where:
        return None
    types = accepted(site.root, where)
    fitting = [donor.term for donor in donors if donor.term.type in types]
    if not fitting:
        return None
    try:
        child = canonical(replace(site.root, where, any_of(fitting, rng)))
    except TermError:
        return None
    return None if child.text == father.text else _judged(child, site, sampler).child


def _different(parent: Term, sampler: Sampler, rng: Random) -> Term:
    while True:
        fresh = sampler.architecture(rng, depth=depth(parent))
        if term_id(fresh) != term_id(parent):
            return fresh
