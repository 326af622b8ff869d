"""The parser of terms. Every mistake is a TermError that shows the line, a caret, what was expected and what would fit.

Text comes from people, files and language models: nothing in it is trusted. Its length, its nesting and the number of
operations it stands for once its `let`s are written out are limited, so that a short text cannot make a huge term.
"""

import difflib
import re
from dataclasses import dataclass
from functools import cache
from typing import NamedTuple

from archloom.search_space import GRAMMAR_VERSION
from archloom.search_space.operations import OPERATIONS, Operation, share
from archloom.search_space.terms import Term, TermError, Value
from archloom.search_space.types import Type

MAX_LENGTH = 100_000
MAX_NESTING = 100
MAX_WRITTEN_OUT = 10_000

_TOKEN = re.compile(r"(?P<space>\s+|#[^\n]*)|(?P<name>[A-Za-z_]\w*)|(?P<number>-?\d+)|(?P<mark>[(),=])", re.ASCII)
_KEYWORDS = ("let", "in", "grammar")


@dataclass(frozen=True, slots=True)
class _Token:
    kind: str  # "name", "number", "mark" or "end"
    text: str
    at: int

    def __str__(self) -> str:
        return "the end of the text" if self.kind == "end" else f"`{self.text[:40]}`"


class _Extent(NamedTuple):
    """How deep a term is, and how many operations it has, with its `let`s written out."""

    depth: int
    size: int


class _Read(NamedTuple):
    """An expression, where it starts, and its extent."""

    term: Term
    at: int
    extent: _Extent


def parse(text: str) -> Term:
    """The typed term that a text writes."""
    return _Parser(text).whole()


@cache
def makers(types: tuple[Type, ...]) -> tuple[str, ...]:
    """Names of the operations that can make one of these types."""
    return tuple(op.name for op in OPERATIONS.values() if set(op.signatures.values()) & set(types))


class _Parser:
    def __init__(self, text: str) -> None:
        if len(text) > MAX_LENGTH:
            raise TermError(f"the term has {len(text)} characters; at most {MAX_LENGTH} are read")
        self.text = text
        self.tokens = self._tokens()
        self.next = 0
        self.bound: dict[str, tuple[Term, _Extent]] = {}
        self.used: set[str] = set()
        self.nesting = 0

    def whole(self) -> Term:
        self._header()
        read = self._expression()
        token = self.tokens[self.next]
        if token.kind != "end":
            raise self._error(token.at, f"expected the end of the term, got {token}")
        return read.term

    # -- tokens ---------------------------------------------------------------------------------------------------

    def _tokens(self) -> list[_Token]:
        tokens, at = [], 0
        while at < len(self.text):
            match = _TOKEN.match(self.text, at)
            if match is None:
                raise self._error(at, f"unexpected character {self.text[at]!r}")
            if match.lastgroup != "space":
                assert match.lastgroup is not None
                tokens.append(_Token(match.lastgroup, match.group(), at))
            at = match.end()
        tokens.append(_Token("end", "", len(self.text.rstrip())))
        return tokens

    def _peek(self, text: str) -> bool:
        token = self.tokens[self.next]
        return token.kind != "end" and token.text == text

    def _take(self, kind: str, what: str) -> _Token:
        token = self.tokens[self.next]
        if token.kind != kind:
            raise self._error(token.at, f"expected {what}, got {token}")
        self.next += 1
        return token

    def _expect(self, mark: str) -> _Token:
        token = self.tokens[self.next]
        if token.kind == "end" or token.text != mark:
            raise self._error(token.at, f"expected `{mark}`, got {token}")
        self.next += 1
        return token

    def _error(self, at: int, message: str) -> TermError:
        line = self.text.count("\n", 0, at) + 1
        start = self.text.rfind("\n", 0, at) + 1
        end = self.text.find("\n", at)
        shown = self.text[start : end if end >= 0 else len(self.text)]
        column = at - start
        left = max(0, column - 60)
        shown = "".join(each if each.isprintable() else " " for each in shown[left : left + 100])
        return TermError(f"line {line}, column {column + 1}: {message}\n    {shown}\n    {' ' * (column - left)}^")

    # -- grammar --------------------------------------------------------------------------------------------------

    def _header(self) -> None:
        if not self._peek("grammar"):
            return
        self.next += 1
        version = self._take("number", "a grammar version")
        if version.text != str(GRAMMAR_VERSION):
            raise self._error(
                version.at,
                f"grammar {version.text[:20]} is not known here: this release reads grammar {GRAMMAR_VERSION}",
            )

    def _expression(self) -> _Read:
        self.nesting += 1
        if self.nesting > MAX_NESTING:
            raise self._error(self.tokens[self.next].at, f"nested deeper than {MAX_NESTING}")
        start, opened = self.tokens[self.next].at, []
        while self._peek("let"):
            opened.append(self._binding())
        term, extent = self._call()
        for name, at in opened:
            if name not in self.used:
                raise self._error(at, f"`{name}` is bound and never used")
            del self.bound[name]
            self.used.discard(name)
        self.nesting -= 1
        return _Read(term, start, extent)

    def _binding(self) -> tuple[str, int]:
        self.next += 1
        name = self._take("name", "a name after `let`")
        if name.text in OPERATIONS or name.text in _KEYWORDS:
            raise self._error(name.at, f"{name} is a word of the language: choose another name")
        if name.text in self.bound:
            raise self._error(name.at, f"{name} is bound already: choose another name")
        self._expect("=")
        value, at, extent = self._expression()
        self._expect("in")
        try:
            self.bound[name.text] = share(value), extent
        except TermError as problem:
            raise self._error(at, str(problem)) from None
        return name.text, name.at

    def _call(self) -> tuple[Term, _Extent]:
        token = self._take("name", "an operation")
        if token.text in self.bound:
            self.used.add(token.text)
            return self.bound[token.text]
        operation = OPERATIONS.get(token.text)
        if operation is None:
            raise self._error(token.at, self._unknown(token.text))
        outer = (self.bound, self.used)
        if operation.scopes:
            self.bound, self.used = {}, set()
        arguments, values = self._arguments(operation)
        self.bound, self.used = outer
        return self._typed(operation, token, arguments, values), self._extent(token, arguments)

    def _extent(self, token: _Token, arguments: list[_Read]) -> _Extent:
        depth = 1 + max((each.extent.depth for each in arguments), default=0)
        size = 1 + sum(each.extent.size for each in arguments)
        if depth > MAX_NESTING:
            raise self._error(token.at, f"with its `let`s written out, the term is nested deeper than {MAX_NESTING}")
        if size > MAX_WRITTEN_OUT:
            raise self._error(
                token.at, f"with its `let`s written out, the term has more than {MAX_WRITTEN_OUT} operations"
            )
        return _Extent(depth, size)

    def _arguments(self, operation: Operation) -> tuple[list[_Read], dict[str, Value]]:
        arguments: list[_Read] = []
        values: dict[str, Value] = {}
        if not self._peek("("):
            return arguments, values
        self.next += 1
        while not self._peek(")"):
            name, after = self.tokens[self.next], self.tokens[min(self.next + 1, len(self.tokens) - 1)]
            if name.kind == "name" and after.text == "=" and after.kind == "mark":
                self._parameter(operation, values)
            else:
                arguments.append(self._expression())
            if not self._peek(")"):
                self._expect(",")
        self.next += 1
        return arguments, values

    def _parameter(self, operation: Operation, values: dict[str, Value]) -> None:
        name = self._take("name", "a parameter")
        self._expect("=")
        if name.text not in operation.position:
            known = ", ".join(operation.position) or "none"
            raise self._error(name.at, f"`{operation.name}` has no parameter {name}; it has: {known}")
        if name.text in values:
            raise self._error(name.at, f"{name} is given twice")
        token = self.tokens[self.next]
        if token.kind not in ("name", "number"):
            raise self._error(token.at, f"expected a value of {name}, got {token}")
        self.next += 1
        choices = operation.parameters[operation.position[name.text]].choices
        by_text: dict[str, Value] = {str(choice): choice for choice in choices}
        if token.text not in by_text:
            raise self._error(token.at, f"{name} is {token}: choose one of {', '.join(by_text)}")
        values[name.text] = by_text[token.text]

    def _typed(self, operation: Operation, token: _Token, arguments: list[_Read], values: dict[str, Value]) -> Term:
        types = [argument.term.type for argument in arguments]
        result = operation.signatures.get(tuple(types))
        if result is None:
            at, fits = token.at, ""
            if len(types) == operation.arity:
                for index, each in enumerate(types):
                    if each not in operation.accepted(index):
                        names = makers(tuple(operation.accepted(index)))
                        at = arguments[index].at
                        fits = f"; what would fit is made by: {', '.join(names)}"
                        break
            raise self._error(at, operation.mismatch(types) + fits)
        chosen = tuple([values.get(p.name, p.default) for p in operation.parameters])
        return Term(operation, chosen, tuple([argument.term for argument in arguments]), result)

    def _unknown(self, name: str) -> str:
        known = [*OPERATIONS, *self.bound]
        near = difflib.get_close_matches(name[:40], known, n=1)
        hint = f": did you mean `{near[0]}`?" if near else "; `archloom zoo --operations` lists them"
        return f"`{name[:40]}` is neither an operation nor bound by a `let`{hint}"
