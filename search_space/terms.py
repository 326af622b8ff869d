"""Terms: immutable typed trees of operations, with sharing.

A `let` is a *shared* node: every occurrence of one shared node object denotes the same tensor, computed once with one
set of weights, while two equal but separate subterms have weights of their own. Sharing never crosses a mixer.

Terms are hand-written slotted objects and not dataclasses: a campaign makes millions, a frozen dataclass costs three
times as much to make, and three slots cache what identity needs. Nothing may assign to a term's public slots.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from enum import Enum
from operator import is_
from typing import TYPE_CHECKING, Final, NamedTuple

from archloom.errors import ConfigError
from archloom.search_space.types import Type

if TYPE_CHECKING:
    from archloom.search_space.operations import Operation

Value = int | str
Path = tuple[int, ...]
"""Child indices from the root; a shared node's only child is its value."""


class TermError(ConfigError):
    """A term does not parse or is ill-typed; the message shows where, what was expected and what would fit."""


class _Itself(Enum):
    """What a canonical term caches as its canonical form: a reference to itself would leave it to the collector."""

    ITSELF = "itself"


ITSELF: Final = _Itself.ITSELF


class Term:
    """An operation with its parameter values (in the operation's order) and arguments.

    `key` is the structural text in which a shared node is written out in full; it orders commutative arguments.
    Equality and hash are those of the printed text, in which `let`s are numbered by first use.
    """

    __slots__ = ("_id", "_key", "_normal", "_text", "arguments", "operation", "type", "values")

    operation: Final[Operation]
    values: Final[tuple[Value, ...]]
    arguments: Final[tuple[Term, ...]]
    type: Final[Type]

    def __init__(
        self, operation: Operation, values: tuple[Value, ...], arguments: tuple[Term, ...], type_: Type
    ) -> None:
        """Trusts `type_`; `build` is the checked way."""
        self.operation = operation
        self.values = values
        self.arguments = arguments
        self.type = type_
        self._key: str | None = None
        self._normal: Term | _Itself | None = None  # its canonical form
        self._text: str | None = None
        self._id: str | None = None

    @property
    def key(self) -> str:
        key = self._key
        if key is None:
            inner = ",".join([argument.key for argument in self.arguments])
            key = self._key = self.operation.heads[self.values] + inner + ")"
        return key

    @property
    def text(self) -> str:
        """One line that parses back to this term."""
        if self._text is None:
            from archloom.search_space.text import one_line

            self._text = one_line(self)
        return self._text

    def value(self, name: str) -> Value:
        """The value of a parameter."""
        return self.values[self.operation.position[name]]

    def integer(self, name: str) -> int:
        value = self.value(name)
        assert isinstance(value, int)
        return value

    def __eq__(self, other: object) -> bool:
        return self is other or (isinstance(other, Term) and self.text == other.text)

    def __hash__(self) -> int:
        return hash(self.text)

    def __repr__(self) -> str:
        return f"Term({self.text})"

    def __reduce__(self) -> tuple[Callable[[str], Term], tuple[str]]:
        from archloom.search_space.text import parse

        return parse, (self.text,)


def build(operation: Operation, values: tuple[Value, ...], arguments: tuple[Term, ...]) -> Term:
    """The typed term, or a TermError naming the argument that does not fit."""
    type_ = operation.signatures.get(tuple([argument.type for argument in arguments]))
    if type_ is None:
        raise TermError(operation.mismatch([argument.type for argument in arguments]))
    return Term(operation, values, arguments, type_)


def joined(operation: Operation, operands: Sequence[Term]) -> Term:
    """An associative operation over operands in this order, as a tree that is no deeper than it must be."""
    if len(operands) == 1:
        return operands[0]
    middle = (len(operands) + 1) // 2
    return build(operation, (), (joined(operation, operands[:middle]), joined(operation, operands[middle:])))


def walk(term: Term) -> list[Term]:
    """Every node once, parents first; the inside of a shared node belongs to its first occurrence in its mixer."""
    found: list[Term] = []
    seen: set[int] = set()
    pending = [term]
    while pending:
        node = pending.pop()
        operation = node.operation
        if operation.shares:
            if id(node) in seen:
                continue
            seen.add(id(node))
        elif operation.scopes:  # mixers are walked one after another
            seen = set()
        found.append(node)
        arguments = node.arguments
        pending += arguments if len(arguments) == 1 else arguments[::-1]
    return found


class Place(NamedTuple):
    """A node of a term: where it stands, what it is, and the innermost mixer around it (None above mixers)."""

    path: Path
    term: Term
    scope: Path | None


def places(term: Term) -> list[Place]:
    """Every place, parents first; the inside of a shared node belongs to its first occurrence."""
    found: list[Place] = []
    seen: set[int] = set()
    pending: list[tuple[Path, Term, Path | None]] = [((), term, None)]
    while pending:
        place = path, node, scope = pending.pop()
        found.append(Place(*place))
        arguments = node.arguments
        if arguments:
            operation = node.operation
            if operation.shares:
                if id(node) in seen:
                    continue
                seen.add(id(node))
            elif operation.scopes:  # mixers are gone through one after another
                scope, seen = path, set()
            if len(arguments) == 1:
                pending.append(((*path, 0), arguments[0], scope))
            else:
                pending += [((*path, n), arguments[n], scope) for n in range(len(arguments) - 1, -1, -1)]
    return found


def size(term: Term) -> int:
    """Number of operations, a shared one counted once and its later uses not at all."""
    return sum(1 for node in walk(term) if not node.operation.shares)


def depth(term: Term) -> int:
    """Number of blocks of a stack or of a block made of a stack, repeats written out; 1 for anything smaller."""
    if term.type is not Type.STACK and term.type is not Type.BLOCK:
        return 1
    return term.operation.blocks(term, [depth(argument) for argument in term.arguments])


def owns_weights(term: Term) -> bool:
    """Whether the term has weights beside those inside shared nodes it only uses."""
    if term.operation.shares:
        return False
    return term.operation.parametric or any(owns_weights(argument) for argument in term.arguments)


def substitute(term: Term, swap: Callable[[Term], Term | None]) -> Term:
    """Replaces every node for which `swap` gives another; a shared node stays one object. Re-typed on the way up."""
    memo: dict[int, Term] = {}

    def visit(node: Term) -> Term:
        new = swap(node)
        if new is not None:
            return new
        if not node.arguments:
            return node
        if node.operation.shares and id(node) in memo:
            return memo[id(node)]
        arguments = tuple([visit(argument) for argument in node.arguments])
        same = all(map(is_, arguments, node.arguments))
        result = node if same else build(node.operation, node.values, arguments)
        if node.operation.shares:
            memo[id(node)] = result
        return result

    return visit(term)


def replace(term: Term, path: Path, new: Term) -> Term:
    """The term with the node at `path` replaced. Inside a shared node, all its uses in the same mixer change."""
    if not path:
        return new
    index, rest = path[0], path[1:]
    child = term.arguments[index]
    if term.operation.scopes:
        return _replace_in_scope(term, path, new)
    changed = replace(child, rest, new)
    arguments = (*term.arguments[:index], changed, *term.arguments[index + 1 :])
    return build(term.operation, term.values, arguments)


def _replace_in_scope(mixer: Term, path: Path, new: Term) -> Term:
    """Walks down to the innermost shared node on the path, then swaps outwards one shared node at a time."""
    trail = [mixer]
    for index in path:
        trail.append(trail[-1].arguments[index])
    shared = [depth for depth, node in enumerate(trail[:-1]) if node.operation.shares]
    stop = shared[-1] if shared else 0
    fresh = new
    for level in range(len(path) - 1, stop - 1, -1):
        node, index = trail[level], path[level]
        fresh = build(node.operation, node.values, (*node.arguments[:index], fresh, *node.arguments[index + 1 :]))
    if not shared:
        return fresh
    old = trail[stop]
    return substitute(mixer, lambda node: fresh if node is old else None)
