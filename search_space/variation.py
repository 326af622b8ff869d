"""Variation: mutation and crossover whose children are valid, in budget, and different from the parent by hash.

Each mutation kind is one function in `KINDS` with its share of the tries; it proposes an edit or gives up, and `mutate`
keeps trying until a child passes. Types make most edits valid at once; an edit that changes a type is re-typed on its
way up and dropped if it does not fit.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from itertools import accumulate
from random import Random

from archloom.search_space.identity import canonical, term_id
from archloom.search_space.operations import OPERATIONS, Operation, share
from archloom.search_space.sampling import Sampler
from archloom.search_space.terms import Path, Place, Term, TermError, build, depth, owns_weights, places, replace, walk
from archloom.search_space.types import SHAREABLE, Type

TRIES = 200
FRESH_SIZE = 6
"""Largest freshly drawn subterm, in operations."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Child:
    """A canonical term and the operator that made it: a mutation kind or "crossover"."""

    term: Term
    operator: str


Edit = Callable[[Term, list[Place], Sampler, Random], Term | None]


def mutate(parent: Term, sampler: Sampler, rng: Random) -> Child:
    """One edit of an architecture. The child's id differs from the parent's and its budget holds."""
    parent = canonical(parent)
    spots = places(parent)
    for _ in range(TRIES):
        kind, edit = _KINDS.draw(rng)
        child = _attempt(parent, lambda edit=edit: edit(parent, spots, sampler, rng), sampler)  # type: ignore[misc]
        if child is not None:
            return Child(term=child, operator=kind)
    return Child(term=_different(parent, sampler, rng), operator="redraw")


def crossover(mother: Term, father: Term, sampler: Sampler, rng: Random) -> Child:
    """The mother with one subterm replaced by one of the father's of a type that fits there.

    The child differs from both; where no such child is found, the mother is mutated.
    """
    mother, father = canonical(mother), canonical(father)
    donors: dict[Type, list[Term]] = {}
    for place in places(father):
        donors.setdefault(place.term.type, []).append(place.term)
    spots = [place for place in places(mother) if place.path]
    for _ in range(TRIES // 4):
        place = rng.choice(spots)
        fitting = [donor for type_ in _accepted(mother, place.path) for donor in donors.get(type_, ())]
        if not fitting:
            continue
        donor = rng.choice(fitting)
        child = _attempt(mother, lambda place=place, donor=donor: replace(mother, place.path, donor), sampler)  # type: ignore[misc]
        if child is not None and term_id(child) != term_id(father):
            return Child(term=child, operator="crossover")
    return mutate(mother, sampler, rng)


def in_budget(architecture: Term, sampler: Sampler) -> bool:
    """Whether size, depth and the load of every mixer are within the sampler's."""
    grammar = sampler.grammar
    if depth(architecture) > grammar.depth:
        return False
    count = 0

    def within(term: Term) -> bool:
        nonlocal count
        if term.type is not Type.MIXER:
            count += 1
            return all(within(argument) for argument in term.arguments)
        nodes = [node for node in walk(term) if not node.operation.shares]
        count += len(nodes)
        return grammar.load(nodes) <= sampler.load

    return within(architecture) and count <= grammar.max_size


def _attempt(parent: Term, edit: Callable[[], Term | None], sampler: Sampler) -> Term | None:
    try:
        edited = edit()
        if edited is None:
            return None
        child = canonical(edited)
    except TermError:
        return None
    if not in_budget(child, sampler) or term_id(child) == term_id(parent):
        return None
    return child


def _different(parent: Term, sampler: Sampler, rng: Random) -> Term:
    while True:
        fresh = sampler.architecture(rng, depth=depth(parent))
        if term_id(fresh) != term_id(parent):
            return fresh


def _accepted(root: Term, path: Path) -> list[Type]:
    """The types that may stand at a path."""
    parent = root
    for index in path[:-1]:
        parent = parent.arguments[index]
    if parent.operation.shares:
        return [parent.type]
    return parent.operation.accepted(path[-1])


# -- kinds: (parent, its places, sampler, rng) -> edited term or None --------------------------------------------------


def _point(parent: Term, spots: list[Place], sampler: Sampler, rng: Random) -> Term | None:
    """Another value of one parameter."""
    place = rng.choice(spots)
    parameters = place.term.operation.parameters
    if not parameters:
        return None
    index = rng.randrange(len(parameters))
    if parameters[index].name == "times":  # depth is the protocol's
        return None
    values = list(place.term.values)
    values[index] = rng.choice(parameters[index].choices)
    return replace(parent, place.path, build(place.term.operation, tuple(values), place.term.arguments))


def _swap(parent: Term, spots: list[Place], sampler: Sampler, rng: Random) -> Term | None:
    """Another operation over the same arguments."""
    place = rng.choice(spots)
    node = place.term
    others = _same_arguments(tuple([argument.type for argument in node.arguments]))
    fitting = [op for op in others if op is not node.operation] if place.path else []
    if not fitting or node.operation.shares:
        return None
    operation = rng.choice(fitting)
    return replace(parent, place.path, build(operation, _drawn_values(operation, node, rng), node.arguments))


def _redraw(parent: Term, spots: list[Place], sampler: Sampler, rng: Random) -> Term | None:
    """A fresh small subterm of any type that fits."""
    place = rng.choice(spots)
    if not place.path or place.term.type in _OUTER:
        return None
    type_ = rng.choice(_accepted(parent, place.path))
    return replace(parent, place.path, _fresh(type_, sampler, rng))


def _insert(parent: Term, spots: list[Place], sampler: Sampler, rng: Random) -> Term | None:
    """An operation around a subterm; its other arguments are drawn."""
    place = rng.choice(spots)
    if not place.path:
        return None
    accepted = _accepted(parent, place.path)
    wrappers = [entry for type_ in accepted for entry in _wrappers(place.term.type, type_)]
    if not wrappers:
        return None
    operation, index, types = rng.choice(wrappers)
    arguments = tuple([place.term if i == index else _fresh(t, sampler, rng) for i, t in enumerate(types)])
    return replace(parent, place.path, build(operation, _drawn_values(operation, None, rng), arguments))


def _hoist(parent: Term, spots: list[Place], sampler: Sampler, rng: Random) -> Term | None:
    """A subterm in place of one that contains it."""
    place = rng.choice(spots)
    if not place.path or not place.term.arguments:
        return None
    accepted = set(_accepted(parent, place.path))
    inside = [each.term for each in places(place.term)[1:] if each.term.type in accepted]
    return replace(parent, place.path, rng.choice(inside)) if inside else None


def _tie(parent: Term, spots: list[Place], sampler: Sampler, rng: Random) -> Term | None:
    """One stream in place of two of the same type in a mixer: a `let`."""
    place = rng.choice(spots)
    if place.scope is None or place.term.type not in SHAREABLE or not owns_weights(place.term):
        return None
    others = [
        each
        for each in spots
        if each.scope == place.scope and each.term.type is place.term.type and _apart(each.path, place.path)
    ]
    if not others:
        return None
    other = rng.choice(others)
    shared = other.term if other.term.operation.shares else share(place.term)
    tied = replace(parent, place.path, shared)
    return tied if other.term is shared else replace(tied, other.path, shared)


def _untie(parent: Term, spots: list[Place], sampler: Sampler, rng: Random) -> Term | None:
    """One use of a `let` gets weights of its own."""
    used = [place for place in spots if place.term.operation.shares]
    if not used:
        return None
    place = rng.choice(used)
    return replace(parent, place.path, place.term.arguments[0])


def _hybrid(parent: Term, spots: list[Place], sampler: Sampler, rng: Random) -> Term | None:
    """A repeat becomes a hybrid with a mutated second block, or a hybrid swaps its blocks."""
    place = rng.choice([each for each in spots if each.term.type is Type.STACK])
    node = place.term
    if node.operation.name == "every":
        return replace(parent, place.path, build(node.operation, node.values, node.arguments[::-1]))
    if node.operation.name != "repeat" or node.integer("times") < 2:
        return None
    block = node.arguments[0]
    inside = places(block)
    edited = _point(block, inside, sampler, rng) if rng.random() < 0.2 else _insert(block, inside, sampler, rng)
    if edited is None:
        return None
    period = rng.choice([p for p in (2, 3, 4) if p <= node.integer("times")])
    every = OPERATIONS["every"]
    return replace(parent, place.path, build(every, (period, node.integer("times")), (block, edited)))


KINDS: dict[str, tuple[float, Edit]] = {
    "point": (1.0, _point),
    "swap": (1.5, _swap),
    "redraw": (1.5, _redraw),
    "insert": (2.0, _insert),
    "hoist": (1.0, _hoist),
    "tie": (1.5, _tie),
    "untie": (0.5, _untie),
    "hybrid": (0.3, _hybrid),
}


class _Wheel:
    """Draws a kind in proportion to its share."""

    def __init__(self, kinds: dict[str, tuple[float, Edit]]) -> None:
        self.names = list(kinds)
        self.edits = [edit for _, edit in kinds.values()]
        self.cumulative = list(accumulate(weight for weight, _ in kinds.values()))

    def draw(self, rng: Random) -> tuple[str, Edit]:
        (index,) = rng.choices(range(len(self.names)), cum_weights=self.cumulative)
        return self.names[index], self.edits[index]


_KINDS = _Wheel(KINDS)
_OUTER = (Type.STACK, Type.BLOCK)


def _fresh(type_: Type, sampler: Sampler, rng: Random) -> Term:
    least = sampler.grammar.cells((type_, 0))[0].size
    return sampler.subterm(type_, rng, max_size=max(least, rng.randint(1, FRESH_SIZE)))


def _apart(a: Path, b: Path) -> bool:
    """Neither place contains the other."""
    short = min(len(a), len(b))
    return a[:short] != b[:short]


def _drawn_values(operation: Operation, like: Term | None, rng: Random) -> tuple[int | str, ...]:
    """Parameter values, kept from `like` where it has them and they are allowed; `times` is never drawn."""
    values = []
    for parameter in operation.parameters:
        known = like.value(parameter.name) if like is not None and parameter.name in like.operation.position else None
        values.append(known if known in parameter.choices else rng.choice(parameter.choices))
    return tuple(values)


@cache
def _same_arguments(types: tuple[Type, ...]) -> list[Operation]:
    """Operations that take exactly these argument types (never those the sampler would not draw)."""
    return [op for op in OPERATIONS.values() if op.weight > 0 and types in op.signatures and "times" not in op.position]


@cache
def _wrappers(inside: Type, outside: Type) -> list[tuple[Operation, int, tuple[Type, ...]]]:
    """(operation, argument index, argument types) with `inside` at the index and `outside` as the result."""
    return [
        (operation, index, types)
        for operation in OPERATIONS.values()
        if operation.weight > 0 and outside not in _OUTER
        for types, result in operation.signatures.items()
        if result is outside
        for index, each in enumerate(types)
        if each is inside
    ]
