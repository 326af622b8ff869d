"""The kinds of mutation, each as what it could do at a place.

A kind lists its options at one place of a term. An option says which values the parameters of a new operation may
take (`settings`) and of which types it needs fresh subterms (`needs`); given both, `make` writes the edited term.
Drawing one option gives a mutation, going through all of them gives the neighbourhood: both know the same edits. An
edit that changes a type is re-typed on its way up, and `make` raises a TermError if it does not fit.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache, partial
from itertools import combinations, product
from typing import Any, NamedTuple, overload

from archloom.search_space.grammar import Grammar, symbol
from archloom.search_space.operations import OPERATIONS, PERIODS, Operation, Parameter, share
from archloom.search_space.stacks import layers, stack_of
from archloom.search_space.terms import (
    Path,
    Place,
    Term,
    Value,
    build,
    depth,
    owns_weights,
    places,
    replace,
    size,
    substitute,
)
from archloom.search_space.types import SHAREABLE, Type

OUTER = (Type.STACK, Type.BLOCK)
"""Types above mixers: their terms are edited as sequences of blocks."""

Values = tuple[Value, ...]


class Option(NamedTuple):
    """One edit, up to the parameter values of a new operation and the fresh subterms it takes."""

    make: Callable[[Values, Sequence[Term]], Term]
    settings: tuple[tuple[Value, ...], ...] = ()
    needs: tuple[Type, ...] = ()
    operation: Operation | None = None  # the new one


class _Lazy(Sequence[Option]):
    """Options that are made one by one when they are looked at: a mutation looks at one of dozens."""

    __slots__ = ("_make", "_of")

    def __init__(self, make: Callable[..., Option], of: Sequence[tuple[Any, ...]]) -> None:
        self._make = make
        self._of = of

    def __len__(self) -> int:
        return len(self._of)

    @overload
    def __getitem__(self, index: int) -> Option: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Option]: ...
    def __getitem__(self, index: int | slice) -> Option | Sequence[Option]:
        if isinstance(index, slice):
            return _Lazy(self._make, self._of[index])
        return self._make(*self._of[index])


@dataclass(frozen=True, slots=True)
class Site:
    """A term to edit, its places, its depth in blocks, and the grammar that fresh subterms come from."""

    root: Term
    spots: list[Place]
    depth: int
    grammar: Grammar


@lru_cache(maxsize=256)
def site_of(term: Term, grammar: Grammar) -> Site:
    """Kept for the terms edited last: a population's members are edited again and again."""
    return Site(term, places(term), depth(term), grammar)


def accepted(root: Term, path: Path) -> list[Type]:
    """The types that may stand at a path; a `let` keeps its type."""
    parent = _at(root, path[:-1])
    return [parent.type] if parent.operation.shares else parent.operation.accepted(path[-1])


# -- kinds: (site, place) -> options -----------------------------------------------------------------------------------


def _point(site: Site, place: Place) -> list[Option]:
    """Another value of one parameter."""
    node = place.term
    return [
        Option(
            partial(_over, site.root, place, node.operation, range(node.operation.arity)),
            tuple([others if n == index else (value,) for n, value in enumerate(node.values)]),
            operation=node.operation,
        )
        for index, parameter in enumerate(node.operation.parameters)
        if not _fixes_depth(parameter)
        and (others := tuple([choice for choice in parameter.choices if choice != node.values[index]]))
    ]


def _swap(site: Site, place: Place) -> Sequence[Option]:
    """Another operation over the same arguments, or over as many as it takes, what it takes besides being fresh.

    Parameters of the same name keep their value where they can.
    """
    node = place.term
    if not place.path or node.operation.shares:
        return []
    types = tuple([argument.type for argument in node.arguments])
    results = _at(site.root, place.path[:-1]).operation.accepted(place.path[-1])  # a `let` is re-typed

    def option(operation: Operation, kept: tuple[int | None, ...], needs: tuple[Type, ...]) -> Option:
        return Option(partial(_over, site.root, place, operation, kept), _settings(operation, node), needs, operation)

    fitting = _replacements(types, tuple(results))
    return _Lazy(option, [each for each in fitting if each[0] is not node.operation])


def _over(
    root: Term, place: Place, operation: Operation, kept: Sequence[int | None], values: Values, fresh: Sequence[Term]
) -> Term:
    """The operation over what `kept` says: an argument that was there by its index, or None for the next fresh one."""
    new = iter(fresh)
    arguments = tuple([next(new) if index is None else place.term.arguments[index] for index in kept])
    return replace(root, place.path, build(operation, values, arguments))


def _flip(site: Site, place: Place) -> list[Option]:
    """The arguments of an operation that does not commute, the other way round."""
    node = place.term
    types = tuple([argument.type for argument in node.arguments])
    if len(types) != 2 or node.operation.commutative or types[::-1] not in node.operation.signatures:
        return []
    settings = tuple([(value,) for value in node.values])
    return [Option(partial(_over, site.root, place, node.operation, (1, 0)), settings, operation=node.operation)]


def _redraw(site: Site, place: Place) -> list[Option]:
    """A fresh small subterm of any type that fits."""
    if not place.path or place.term.type in OUTER:
        return []
    return [
        Option(partial(_replaced, site.root, place.path), needs=(type_,))
        for type_ in accepted(site.root, place.path)
        if type_ not in OUTER and site.grammar.cells(symbol(type_))
    ]


def _replaced(root: Term, path: Path, _: Values, fresh: Sequence[Term]) -> Term:
    return replace(root, path, fresh[0])


def _shrink(site: Site, place: Place) -> list[Option]:
    """A smallest term of its type in its place."""
    node = place.term
    if not place.path or node.type in OUTER or not node.arguments or node.operation.shares:
        return []
    least = site.grammar.least_terms(node.type)
    if not least or size(node) <= size(least[0]):
        return []
    return [Option(partial(_put, site.root, place.path, each)) for each in least]


def _put(root: Term, path: Path, new: Term, _: Values, __: Sequence[Term]) -> Term:
    return replace(root, path, new)


def _insert(site: Site, place: Place) -> Sequence[Option]:
    """An operation around a subterm; its other arguments are fresh."""
    if not place.path or place.term.type in OUTER:
        return []

    def option(operation: Operation, index: int, needs: tuple[Type, ...]) -> Option:
        return Option(partial(_wrapped, site.root, place, operation, index), _choices(operation), needs, operation)

    return _Lazy(option, _wrappers(place.term.type, tuple(accepted(site.root, place.path)), drawn=True))


def _wrapped(root: Term, place: Place, operation: Operation, index: int, values: Values, fresh: Sequence[Term]) -> Term:
    arguments = (*fresh[:index], place.term, *fresh[index:])
    return replace(root, place.path, build(operation, values, arguments))


def _plant(site: Site, place: Place) -> list[Option]:
    """An operation that is never drawn, around a subterm or over fresh ones.

    It has no weight because with it something that is true of every draw would not be (each says what), so what it
    makes here is for the gates to judge.
    """
    if not place.path or place.term.type in OUTER:
        return []
    root, results = site.root, tuple(accepted(site.root, place.path))
    around = [
        Option(partial(_wrapped, root, place, operation, index), _choices(operation), needs, operation)
        for operation, index, needs in _wrappers(place.term.type, results, drawn=False)
    ]
    afresh = [
        Option(partial(_over, root, place, operation, (None,) * len(types)), _choices(operation), types, operation)
        for operation in _NEVER_DRAWN
        for types, result in operation.signatures.items()
        if result in results
    ]
    return around + afresh


def _hoist(site: Site, place: Place) -> list[Option]:
    """A subterm in place of one that contains it."""
    if not place.path or not place.term.arguments:
        return []
    fitting = set(accepted(site.root, place.path))
    inside = [each.term for each in places(place.term)[1:] if each.term.type in fitting]
    return [Option(partial(_put, site.root, place.path, each)) for each in inside]


def _copy(site: Site, place: Place) -> Sequence[Option]:
    """A copy of another subterm of the mixer, with weights of its own or over the same streams, made `let`s."""
    if place.scope is None or place.term.operation.shares:
        return []

    def option(donor: Place, tied: bool) -> Option:
        return Option(partial(_copied, site.root, place, donor, tied))

    fitting = set(accepted(site.root, place.path))
    donors = [
        each
        for each in site.spots
        if each.scope == place.scope and each.term.type in fitting and each.term.arguments
        if not each.term.operation.shares and _apart(each.path, place.path)
    ]
    return _Lazy(option, [(donor, tied) for donor in donors for tied in (False, True)])


def _copied(root: Term, place: Place, donor: Place, tied: bool, _: Values, __: Sequence[Term]) -> Term:
    if not tied:
        return replace(root, place.path, donor.term)
    streams_shared = substitute(donor.term, _shared)
    return replace(replace(root, place.path, streams_shared), donor.path, streams_shared)


def _shared(node: Term) -> Term | None:
    """A `let` of a stream with weights; None for a term to be looked into."""
    if node.operation.shares:
        return node
    return share(node) if node.type in SHAREABLE and owns_weights(node) else None


def _tie(site: Site, place: Place) -> list[Option]:
    """One stream in place of two of the same type in a mixer: a `let`."""
    if place.scope is None or place.term.type not in SHAREABLE or not owns_weights(place.term):
        return []
    return [
        Option(partial(_tied, site.root, place, each))
        for each in site.spots
        if each.scope == place.scope and each.term.type is place.term.type and _apart(each.path, place.path)
    ]


def _tied(root: Term, place: Place, other: Place, _: Values, __: Sequence[Term]) -> Term:
    shared = other.term if other.term.operation.shares else share(place.term)
    tied = replace(root, place.path, shared)
    return tied if other.term is shared else replace(tied, other.path, shared)


def _untie(site: Site, place: Place) -> list[Option]:
    """One use of a `let` gets weights of its own."""
    if not place.term.operation.shares:
        return []
    return [Option(partial(_put, site.root, place.path, place.term.arguments[0]))]


def _retarget(site: Site, place: Place) -> list[Option]:
    """A use of a `let` of the mixer in place of another use or of a subterm."""
    if place.scope is None:
        return []
    fitting = set(accepted(site.root, place.path))
    lets = {
        id(each.term): each.term
        for each in site.spots
        if each.scope == place.scope and each.term.operation.shares and each.term.type in fitting
        if each.term is not place.term
    }
    return [Option(partial(_put, site.root, place.path, each)) for each in lets.values()]


# -- kinds that edit a stack as the sequence of its blocks -------------------------------------------------------------


def _hybrid(site: Site, place: Place) -> list[Option]:
    """In a stack of one block, every p-th layer gets a copy of it that is edited at this place."""
    stacks = [n for n in range(len(place.path)) if _at(site.root, place.path[:n]).type is Type.STACK]
    if not stacks:
        return []
    path = place.path[: stacks[-1]]
    blocks = list(layers(_at(site.root, path)))
    if len(_different(blocks)) > 1 or len(place.path) < stacks[-1] + 2:
        return []
    block = blocks[0]
    inside = Site(block, [], 1, site.grammar)
    here = Place(place.path[stacks[-1] + 1 :], place.term, None)
    return [
        option._replace(make=partial(_every, site.root, path, blocks, period, option.make))
        for option in (*_point(inside, here), *_insert(inside, here), *_redraw(inside, here), *_plant(inside, here))
        for period in _periods(blocks)
    ]


def _every(
    root: Term,
    path: Path,
    blocks: Sequence[Term],
    period: int,
    make: Callable[[Values, Sequence[Term]], Term],
    values: Values,
    fresh: Sequence[Term],
) -> Term:
    other = make(values, fresh)
    return replace(root, path, stack_of(_alternating(blocks[0], other, period, len(blocks))))


def _ratio(site: Site, place: Place) -> list[Option]:
    """A stack of two kinds of blocks becomes a hybrid of another period, either kind being the rare one."""
    if place.term.type is not Type.STACK:
        return []
    blocks = list(layers(place.term))
    kinds = _different(blocks)
    if len(kinds) != 2:
        return []
    return [
        _stacked(site, place, _alternating(main, other, period, len(blocks)))
        for main, other in (kinds, kinds[::-1])
        for period in _periods(blocks)
    ]


def _duplicate(site: Site, place: Place) -> list[Option]:
    """One layer becomes another block of the stack, which is thereby repeated apart."""
    if place.term.type is not Type.STACK:
        return []
    blocks = list(layers(place.term))
    return [
        _stacked(site, place, (*blocks[:index], other, *blocks[index + 1 :]))
        for index, block in enumerate(blocks)
        for other in _different(blocks)
        if other is not block
    ]


def _frame(site: Site, place: Place) -> list[Option]:
    """A stack becomes one block that is made of it, or a block that is all of a stack gives way to its own stack."""
    stack = place.term
    if stack.type is not Type.STACK or depth(stack) < 2:
        return []
    made = [_stacked(site, place, (build(operation, (), (stack,)),)) for operation in _FRAMES]
    first, *others = layers(stack)
    if not others:  # of several blocks deep, so it is made of a stack
        made.append(Option(partial(_put, site.root, place.path, first.arguments[0])))
    return made


def _merge(site: Site, place: Place) -> list[Option]:
    """Two kinds of blocks of a stack become one."""
    if place.term.type is not Type.STACK:
        return []
    blocks = list(layers(place.term))
    kinds = _different(blocks)
    return [
        _stacked(site, place, [kept if block == dropped else block for block in blocks])
        for kept in kinds
        for dropped in kinds
        if kept is not dropped
    ]


def _stacked(site: Site, place: Place, blocks: Sequence[Term]) -> Option:
    return Option(partial(_restacked, site.root, place.path, blocks))


def _restacked(root: Term, path: Path, blocks: Sequence[Term], _: Values, __: Sequence[Term]) -> Term:
    return replace(root, path, stack_of(blocks))


def _alternating(main: Term, other: Term, period: int, count: int) -> list[Term]:
    return [main if n % period else other for n in range(1, count + 1)]


def _periods(blocks: Sequence[Term]) -> list[int]:
    return [period for period in PERIODS if period <= len(blocks)]


def _different(blocks: Iterable[Term]) -> list[Term]:
    return list({block.text: block for block in reversed(list(blocks))}.values())[::-1]


def _at(root: Term, path: Path) -> Term:
    for index in path:
        root = root.arguments[index]
    return root


def _apart(a: Path, b: Path) -> bool:
    """Neither place contains the other."""
    short = min(len(a), len(b))
    return a[:short] != b[:short]


# -- the table of operations, by what an edit asks of it ---------------------------------------------------------------

_DRAWN = tuple(each for each in OPERATIONS.values() if each.weight > 0)
_NEVER_DRAWN = tuple(each for each in OPERATIONS.values() if each.weight == 0 and not each.shares)
_FRAMES = tuple(each for each in _DRAWN if (Type.STACK,) in each.signatures)
"""Operations that make a block of a stack."""


def _fixes_depth(parameter: Parameter) -> bool:
    """Depth is the protocol's: no edit changes it."""
    return parameter.name == "times"


@cache
def _choices(operation: Operation) -> tuple[tuple[Value, ...], ...]:
    return tuple(parameter.choices for parameter in operation.parameters)


def _settings(operation: Operation, like: Term) -> tuple[tuple[Value, ...], ...]:
    """What the parameters of an operation may be: kept from `like` where it has them and they are allowed."""
    if not operation.parameters or not like.values:
        return _choices(operation)
    known = [
        like.value(parameter.name) if parameter.name in like.operation.position else None
        for parameter in operation.parameters
    ]
    return tuple(
        (value,) if value is not None and value in parameter.choices else parameter.choices
        for value, parameter in zip(known, operation.parameters, strict=True)
    )


Replacement = tuple[Operation, tuple[int | None, ...], tuple[Type, ...]]
"""An operation, which of the old arguments it takes where (None: a fresh one), and the types of the fresh ones."""


@cache
def _replacements(types: tuple[Type, ...], results: tuple[Type, ...]) -> list[Replacement]:
    """What may replace an operation over arguments of these types where these results are accepted.

    Arguments keep their order. Of two operations, all arguments of the one that has fewer are kept. Operations that the
    sampler would not draw never replace another.
    """
    found: list[Replacement] = []
    for operation in _DRAWN:
        if any(map(_fixes_depth, operation.parameters)):
            continue
        for new, result in operation.signatures.items():
            if result not in results:
                continue
            if new == types:
                found.append((operation, tuple(range(len(types))), ()))
            elif not any(each in OUTER for each in new):
                found += [(operation, *each) for each in _matchings(types, new)]
    return found


@cache
def _matchings(old: tuple[Type, ...], new: tuple[Type, ...]) -> list[tuple[tuple[int | None, ...], tuple[Type, ...]]]:
    """Every way to keep all arguments of the shorter list in order: what goes where, and the types still missing."""
    found = []
    few = min(len(old), len(new))
    for kept in combinations(range(len(old)), few if few and len(old) != len(new) else len(old) + 1):
        for where in combinations(range(len(new)), few):
            if all(old[index] is new[at] for index, at in zip(kept, where, strict=True)):
                at_place = dict(zip(where, kept, strict=True))
                missing = tuple(each for at, each in enumerate(new) if at not in at_place)
                found.append((tuple(at_place.get(at) for at in range(len(new))), missing))
    return found


Wrapper = tuple[Operation, int, tuple[Type, ...]]
"""An operation, the index of the argument that a subterm becomes, and the types of its other arguments."""


@cache
def _wrappers(inside: Type, outside: tuple[Type, ...], *, drawn: bool) -> list[Wrapper]:
    """What may stand around a subterm: operations that are drawn, or that never are, with a result accepted."""
    return [
        (operation, index, types[:index] + types[index + 1 :])
        for wanted in outside
        for operation in (_DRAWN if drawn else _NEVER_DRAWN)
        if wanted not in OUTER
        for types, result in operation.signatures.items()
        if result is wanted and not any(each in OUTER for each in types)
        for index, each in enumerate(types)
        if each is inside
    ]


def written(option: Option, fresh: Callable[[Type], Sequence[Term]]) -> Iterable[Callable[[], Term]]:
    """The ways to carry an option out, with each setting and each of the `fresh` terms of a type; not yet made.

    Of options that take several fresh terms, of which there are far too many together, the first of each type alone.
    """
    found = [fresh(type_) for type_ in option.needs]
    choices = found if len(found) < 2 else [terms[:1] for terms in found]
    for values in product(*option.settings):
        for terms in product(*choices):
            yield partial(option.make, values, terms)


Kind = Callable[[Site, Place], Sequence[Option]]

KINDS: dict[str, tuple[float, Kind]] = {
    "point": (1.0, _point),
    "swap": (1.5, _swap),
    "flip": (0.3, _flip),
    "redraw": (1.5, _redraw),
    "shrink": (0.3, _shrink),
    "insert": (2.0, _insert),
    "plant": (0.1, _plant),
    "hoist": (1.0, _hoist),
    "copy": (0.5, _copy),
    "tie": (1.5, _tie),
    "untie": (0.5, _untie),
    "retarget": (0.5, _retarget),
    "hybrid": (0.2, _hybrid),
    "ratio": (0.2, _ratio),
    "duplicate": (0.2, _duplicate),
    "merge": (0.1, _merge),
    "frame": (0.1, _frame),
}
"""Every kind with its share of the tries."""

ON_STACKS = frozenset(("ratio", "duplicate", "merge", "frame"))
"""Kinds whose places are stacks."""

ON_LETS = frozenset(("untie",))
"""Kinds whose places are uses of a `let`."""

ON_PAIRS = frozenset(("flip",))
"""Kinds whose places are operations of two arguments."""
