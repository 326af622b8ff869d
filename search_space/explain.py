"""What a term is, in words, equations and figures, and which known systems stand next to it.

Everything follows from the table of operations and the files of the zoo; nothing is said here about any one operation.
"""

from collections.abc import Callable
from dataclasses import dataclass

from archloom.search_space import zoo
from archloom.search_space.complexity import CONTEXT, WIDTH, Complexity, complexity
from archloom.search_space.difference import Change, difference, unified
from archloom.search_space.equations import Equation, equations
from archloom.search_space.identity import canonical, term_id
from archloom.search_space.terms import Term, Value, depth, walk
from archloom.search_space.text import pretty
from archloom.search_space.types import Type

NEAREST = 3
DEPTH = 2
"""Blocks of the stack that a mixer or block is compared in; a stack is compared at its own depth."""

Distance = Callable[[Term, Term], float]
"""How far one canonical term is from another, 0 for equal ones."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Use:
    """An operation that occurs; `values` holds (parameter, value) as they are where it is first used like this."""

    name: str
    values: tuple[tuple[str, Value], ...]
    summary: str
    equation: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Neighbour:
    """A system of the zoo; `changes` lead from it to the term, `unified` says the same as a diff of texts."""

    name: str
    distance: float
    changes: tuple[Change, ...]
    unified: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Explanation:
    """`term` is canonical and on one line, `text` the same over lines, `same_as` the zoo's name for it.

    A part smaller than a mixer has no `complexity` and no neighbours.
    """

    id: str
    type: str
    term: str
    text: str
    same_as: str | None
    operations: tuple[Use, ...]
    equations: tuple[Equation, ...]
    complexity: Complexity | None
    nearest: tuple[Neighbour, ...]


def explain(term: Term, *, context: int = CONTEXT, width: int = WIDTH, distance: Distance | None = None) -> Explanation:
    """Everything there is to say about a term of any type; `distance` orders the zoo, by default that of `apart`."""
    normal = canonical(term)
    whole = standing(normal)
    return Explanation(
        id=term_id(normal),
        type=normal.type.value,
        term=normal.text,
        text=pretty(normal),
        same_as=None if whole is None else _namesake(whole),
        operations=uses(normal),
        equations=equations(normal),
        complexity=None if whole is None else complexity(whole, context=context, width=width),
        nearest=() if whole is None else nearest(whole, distance=distance or apart),
    )


def standing(term: Term) -> Term | None:
    """The canonical architecture that a mixer, block or stack stands for; None for any other part."""
    if term.type not in (Type.MIXER, Type.BLOCK, Type.STACK):
        return None
    return term if term.type is Type.STACK else canonical(zoo.as_architecture(term, depth=DEPTH))


def uses(term: Term) -> tuple[Use, ...]:
    """The operations of a term in the order of first use, once for each choice of parameters."""
    found: dict[tuple[str, tuple[Value, ...]], Term] = {}
    for node in walk(term):
        if not node.operation.shares:
            found.setdefault((node.operation.name, node.values), node)
    return tuple(
        Use(
            name=node.operation.name,
            values=tuple(zip(node.operation.position, node.values, strict=True)),
            summary=node.operation.summary,
            equation=node.operation.equation,
        )
        for node in found.values()
    )


def apart(old: Term, new: Term) -> float:
    """Operations touched on the way from one canonical term to another, by the alignment that the diff shows."""
    return float(sum(change.operations for change in difference(old, new)))


def nearest(architecture: Term, *, count: int = NEAREST, distance: Distance = apart) -> tuple[Neighbour, ...]:
    """The `count` systems of the zoo that are next to a canonical stack, itself left out, at its depth."""
    blocks = depth(architecture)
    systems = {name: zoo.load(name, depth=blocks) for name in zoo.names()}
    others = [(distance(each, architecture), name) for name, each in systems.items() if each.text != architecture.text]
    return tuple(
        Neighbour(
            name=name,
            distance=away,
            changes=difference(systems[name], architecture),
            unified=unified(systems[name], architecture, names=(f"zoo/{name}", "this")),
        )
        for away, name in sorted(others)[:count]
    )


def _namesake(architecture: Term) -> str | None:
    blocks = depth(architecture)
    return next((name for name in zoo.names() if zoo.load(name, depth=blocks).text == architecture.text), None)
