"""What was done to one term to get another, in lines a person reads, and as a unified diff of the two texts.

The trees are aligned from the root down at the least number of operations touched: an operation stays, changes its
parameters or is replaced by another; it goes while one of its arguments stays in its place, or comes around what was
there; and whole arguments come and go. A `let` stands where it is used first; its later uses are leaves that equal each
other when they share the same thing. That is less than every sequence of edits of ordered trees could do (an argument
that moves elsewhere counts as removed and added), and it reads better.
"""

import difflib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property

from archloom.search_space.terms import Term
from archloom.search_space.text import pretty

SHOWN = 72
"""Characters of a removed or added part that a line shows."""
HOLE = "…"
LATER_USE = "let"


class Kind(StrEnum):
    ADDED = "added"
    REMOVED = "removed"
    REPLACED = "replaced"
    CHANGED = "changed"


_LINKS = {Kind.ADDED: "", Kind.REMOVED: "", Kind.REPLACED: " by ", Kind.CHANGED: " to "}


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """`before` and `after` are operations or parts of terms, `…` in them what stayed; empty where there is none.

    `where` is the place in the older term, or in the newer one for what was added; `operations` how many are touched.
    A later use of a `let` is written `let(...)` with the operation that it binds.
    """

    kind: Kind
    before: str
    after: str
    where: str
    operations: int

    @property
    def line(self) -> str:
        """`replaced forget by retention (argument 2 of decay)`."""
        said = f"{self.kind.value} {_LINKS[self.kind].join(_cut(part) for part in (self.before, self.after) if part)}"
        return f"{said} ({self.where})" if self.where else said


def difference(old: Term, new: Term) -> tuple[Change, ...]:
    """The changes that make `new` of `old`, in the order of the text; none if and only if they print alike."""
    return tuple(_changes(_Alignment().align(_tree(old), _tree(new)).edits))


def unified(old: Term, new: Term, *, names: tuple[str, str]) -> str:
    """A unified diff of the two pretty texts, `names` in its head."""
    lines = difflib.unified_diff(pretty(old).splitlines(), pretty(new).splitlines(), *names, lineterm="")
    return "\n".join(lines)


def _cut(text: str) -> str:
    return text if len(text) <= SHOWN else f"{text[: SHOWN - 1]}{HOLE}"


# -- trees -------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class _Node:
    """An operation as the alignment sees it; `key` is equal for trees without a difference."""

    term: Term
    name: str
    children: tuple["_Node", ...]
    where: str
    key: str

    @cached_property
    def size(self) -> int:
        return 1 if self.name == LATER_USE else 1 + sum(child.size for child in self.children)

    @property
    def head(self) -> str:
        """`conv width=3`: the operation with the parameters that are not at their defaults."""
        return " ".join([self.name, *_set(self.term)])

    def said(self, *, hole: "_Node | None" = None, filler: str = HOLE) -> str:
        """The text with defaults left out, and `filler` in the place of `hole`."""
        if self is hole:
            return filler
        parts = [child.said(hole=hole, filler=filler) for child in self.children]
        if self.name != LATER_USE:
            parts += _set(self.term)
        return f"{self.name}({', '.join(parts)})" if parts else self.name


def _set(term: Term) -> list[str]:
    """The parameters that are not at their defaults."""
    parameters = zip(term.operation.parameters, term.values, strict=True)
    return [f"{each.name}={value}" for each, value in parameters if value != each.default]


def _tree(root: Term) -> _Node:
    def visit(term: Term, where: str, met: dict[int, str]) -> _Node:
        name = term.operation.name
        if term.operation.shares:
            bound = term.arguments[0]
            kind = bound.operation.name
            if id(term) not in met:
                # Counted among those of its kind, so that a `let` more or less does not change the others.
                met[id(term)] = f"{LATER_USE} {kind} {sum(each.split()[1] == kind for each in met.values())}"
                return visit(bound, where, met)
            return _Node(term, LATER_USE, (_Node(bound, kind, (), "", ""),), where, met[id(term)])
        inside = {} if term.operation.scopes else met
        many = len(term.arguments) > 1
        children = tuple(
            visit(each, f"argument {index} of {name}" if many else f"in {name}", inside)
            for index, each in enumerate(term.arguments, 1)
        )
        head = " ".join([name, *map(str, term.values)])
        return _Node(term, name, children, where, f"{head}({','.join(child.key for child in children)})")

    return visit(root, "", {})


# -- alignment ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Edit:
    """What happens to an operation: it is put in the place of another, or it comes or goes around `hole`, if any."""

    old: _Node | None
    new: _Node | None
    cost: int
    hole: _Node | None = None
    whole: bool = True  # with its arguments

    @property
    def node(self) -> _Node:
        found = self.old or self.new
        assert found is not None
        return found


@dataclass(frozen=True, slots=True)
class _Edits:
    cost: int
    edits: tuple[_Edit, ...]

    def __add__(self, other: "_Edits") -> "_Edits":
        return _Edits(self.cost + other.cost, self.edits + other.edits)


_NONE = _Edits(0, ())


class _Alignment:
    """Remembers the cheapest way from each subtree to each other."""

    def __init__(self) -> None:
        self.known: dict[tuple[_Node, _Node], _Edits] = {}

    def align(self, old: _Node, new: _Node) -> _Edits:
        if old.key == new.key:
            return _NONE
        pair = old, new
        if pair not in self.known:
            self.known[pair] = min(self._ways(old, new), key=lambda each: (each.cost, len(each.edits)))
        return self.known[pair]

    def _ways(self, old: _Node, new: _Node) -> Iterator[_Edits]:
        if LATER_USE in (old.name, new.name):
            yield _one(_Edit(old, new, 1 if old.name == new.name else max(old.size, new.size)))
        else:
            head = _heads(old, new)
            yield head + self._children(old.children, new.children)
            if old.term.operation.commutative and new.term.operation.commutative:
                yield head + self._children(old.children[::-1], new.children)
        for child in old.children if old.name != LATER_USE else ():
            yield _one(_Edit(old, None, old.size - child.size, hole=child)) + self.align(child, new)
        for child in new.children if new.name != LATER_USE else ():
            yield _one(_Edit(None, new, new.size - child.size, hole=child)) + self.align(old, child)

    def _children(self, old: Sequence[_Node], new: Sequence[_Node]) -> _Edits:
        """The arguments aligned in their order."""
        if len(old) == len(new) == 1:
            return self.align(old[0], new[0])
        row = [_NONE]
        for each in new:
            row.append(row[-1] + _one(_Edit(None, each, each.size)))
        for gone in old:
            lost, above = _one(_Edit(gone, None, gone.size)), row
            row = [above[0] + lost]
            for index, each in enumerate(new):
                come = row[-1] + _one(_Edit(None, each, each.size))
                options = (above[index] + self.align(gone, each), above[index + 1] + lost, come)
                row.append(min(options, key=lambda option: option.cost))
        return row[-1]


def _one(edit: _Edit) -> _Edits:
    return _Edits(edit.cost, (edit,))


def _heads(old: _Node, new: _Node) -> _Edits:
    """What one operation in place of another costs, arguments aside: more if it makes something of another type."""
    if old.name != new.name:
        return _one(_Edit(old, new, 1 if old.term.type is new.term.type else 2, whole=False))
    changed = sum(a != b for a, b in zip(old.term.values, new.term.values, strict=True))
    return _one(_Edit(old, new, changed, whole=False)) if changed else _NONE


# -- words -------------------------------------------------------------------------------------------------------------


def _changes(edits: Sequence[_Edit]) -> Iterator[Change]:
    """Edits as changes; operations that come or go one around the other are one change."""
    pending = list(edits)[::-1]
    while pending:
        chain = [pending.pop()]
        while pending and _continues(pending[-1], chain[-1]):
            chain.append(pending.pop())
        if chain[0].old is not None and chain[0].new is not None:
            yield from _instead(chain[0], chain[0].old, chain[0].new)
            continue
        filler = HOLE
        for edit in reversed(chain):
            filler = edit.node.said(hole=edit.hole, filler=filler)
        gone = chain[0].new is None
        yield Change(
            kind=Kind.REMOVED if gone else Kind.ADDED,
            before=filler if gone else "",
            after="" if gone else filler,
            where=chain[0].node.where,
            operations=sum(edit.cost for edit in chain),
        )


def _continues(edit: _Edit, outer: _Edit) -> bool:
    """Whether an edit comes or goes, as the one around it does, in its hole."""
    same = (edit.old is None) == (outer.old is None) and (edit.new is None) == (outer.new is None)
    return same and outer.hole is edit.node


def _instead(edit: _Edit, old: _Node, new: _Node) -> Iterator[Change]:
    if old.name != new.name or edit.whole:
        before, after = (old.said(), new.said()) if edit.whole else (old.head, new.head)
        yield Change(kind=Kind.REPLACED, before=before, after=after, where=old.where, operations=edit.cost)
        return
    for each, a, b in zip(old.term.operation.parameters, old.term.values, new.term.values, strict=True):
        if a != b:
            before, after = f"{old.name} {each.name}={a}", str(b)
            yield Change(kind=Kind.CHANGED, before=before, after=after, where=old.where, operations=1)
