"""The parser of terms. Every mistake is a TermError that shows the line, a caret, what was expected and what would fit.

Text comes from people, files and language models: nothing in it is trusted. Its length, its nesting and the number of
operations it stands for once its `let`s are written out are limited, so that a short text cannot make a huge term.

Tokens are plain words; where one stands is found again only for an error. A text of an earlier grammar is brought to
today's by `migration`, token by token.
"""

import difflib
import re
from functools import cache
from itertools import islice
from typing import NamedTuple

from archloom.search_space import GRAMMAR_VERSION
from archloom.search_space.migration import MIGRATIONS, migrated
from archloom.search_space.operations import OPERATIONS, Operation, share
from archloom.search_space.terms import Term, TermError, Value
from archloom.search_space.types import Type

MAX_LENGTH = 100_000
MAX_NESTING = 100
MAX_WRITTEN_OUT = 10_000
MAX_COMPARED = 100
"""Bound names among which a misspelt one is looked for."""

_TOKEN = re.compile(r"#[^\n]*|[A-Za-z_]\w*|-?\d+|\S", re.ASCII)  # the last is a mark, or a character of no use
_NAME = re.compile(r"[A-Za-z_]", re.ASCII)
_WORD = re.compile(r"[A-Za-z_0-9-]", re.ASCII)
_END = ""
_KEYWORDS = ("let", "in", "grammar")


class _Read(NamedTuple):
    """An expression, the number of its first token, and how deep and how large it is with its `let`s written out."""

    term: Term
    at: int
    depth: int
    size: int


class _Spelling(NamedTuple):
    """How the parameters of an operation are written: (index, value by text) by name; and their defaults."""

    parameters: dict[str, tuple[int, dict[str, Value]]]
    defaults: tuple[Value, ...]


def parse(text: str) -> Term:
    """The typed term that a text writes."""
    return _Parser(text).whole()


@cache
def makers(types: tuple[Type, ...]) -> tuple[str, ...]:
    """Names of the operations that can make one of these types."""
    return tuple(op.name for op in OPERATIONS.values() if set(op.signatures.values()) & set(types))


@cache
def _spelling(operation: Operation) -> _Spelling:
    parameters = {
        parameter.name: (index, {str(choice): choice for choice in parameter.choices})
        for index, parameter in enumerate(operation.parameters)
    }
    return _Spelling(parameters, tuple(parameter.default for parameter in operation.parameters))


class _Parser:
    __slots__ = ("bound", "nesting", "next", "origins", "text", "tokens", "used")

    def __init__(self, text: str) -> None:
        self.text = text
        self.tokens = _words(text[:MAX_LENGTH])
        self.origins: list[int] | None = None  # of migrated tokens: which token of the text each comes from
        self.next = 0
        self.bound: dict[str, _Read] = {}
        self.used: set[str] = set()
        self.nesting = 0

    def whole(self) -> Term:
        if len(self.text) > MAX_LENGTH:
            raise self._error_at(MAX_LENGTH, f"the term has {len(self.text)} characters; at most {MAX_LENGTH} are read")
        if self.tokens[0] == "grammar":
            self._header()
        read = self._expression()
        if self.tokens[self.next] != _END:
            raise self._unexpected("the end of the term")
        return read.term

    # -- errors ---------------------------------------------------------------------------------------------------

    def _unexpected(self, expected: str) -> TermError:
        return self._error(self.next, f"expected {expected}, got {_shown(self.tokens[self.next])}")

    def _error(self, number: int, message: str) -> TermError:
        """A mistake at a token, given by its number; a character that no term has comes before any other mistake."""
        junk = {token for token in set(self.tokens) if _is_junk(token)}
        if junk:
            number, token = next((n, token) for n, token in enumerate(self.tokens) if token in junk)
            message = f"unexpected character {token!r}"
        if self.origins is not None:
            number = self.origins[number]
        matches = _TOKEN.finditer(self.text)
        if "#" in self.text:
            matches = (match for match in matches if match.group()[0] != "#")
        found = next(islice(matches, number, None), None)
        return self._error_at(found.start() if found else len(self.text.rstrip()), message)

    def _error_at(self, at: int, message: str) -> TermError:
        line = self.text.count("\n", 0, at) + 1
        start = self.text.rfind("\n", 0, at) + 1
        end = self.text.find("\n", at)
        shown = self.text[start : end if end >= 0 else len(self.text)]
        column = at - start
        left = max(0, column - 60)
        shown = "".join(each if each.isprintable() else " " for each in shown[left : left + 100])
        return TermError(f"line {line}, column {column + 1}: {message}\n    {shown}\n    {' ' * (column - left)}^")

    def _unknown(self, name: str) -> str:
        known = [*OPERATIONS, *islice(self.bound, MAX_COMPARED)]
        near = difflib.get_close_matches(name[:40], known, n=1)
        hint = f": did you mean `{near[0]}`?" if near else "; `archloom zoo --operations` lists them"
        return f"`{name[:40]}` is neither an operation nor bound by a `let`{hint}"

    # -- grammar --------------------------------------------------------------------------------------------------

    def _header(self) -> None:
        self.next = 1
        written = self.tokens[1]
        if not written.lstrip("-").isdigit():
            raise self._unexpected("a grammar version")
        version = next((each for each in (*MIGRATIONS, GRAMMAR_VERSION) if str(each) == written), None)
        if version is None:
            reads = " and ".join(map(str, (*MIGRATIONS, GRAMMAR_VERSION)))
            raise self._error(1, f"grammar {written[:20]} is not known here: this release reads grammar {reads}")
        rest = migrated(self.tokens[2:], version, GRAMMAR_VERSION)
        self.tokens = [token for token, _ in rest]
        self.origins = [2 + number for _, number in rest]
        self.next = 0

    def _take(self, mark: str) -> None:
        if self.tokens[self.next] != mark:
            raise self._unexpected(f"`{mark}`")
        self.next += 1

    def _expression(self) -> _Read:
        self.nesting += 1
        if self.nesting > MAX_NESTING:
            raise self._error(self.next, f"nested deeper than {MAX_NESTING}")
        start = self.next
        if self.tokens[start] == "let":
            read = self._bound_expression()
        else:
            read = self.bound.get(self.tokens[start]) or self._call()
            if self.next == start:  # the use of a `let`
                self.used.add(self.tokens[start])
                self.next += 1
                read = read._replace(at=start)
        self.nesting -= 1
        return read

    def _bound_expression(self) -> _Read:
        start, opened = self.next, []
        while self.tokens[self.next] == "let":
            opened.append(self._binding())
        read = self._expression()
        for number in opened:
            name = self.tokens[number]
            if name not in self.used:
                raise self._error(number, f"`{name}` is bound and never used")
            del self.bound[name]
            self.used.discard(name)
        return read._replace(at=start)

    def _binding(self) -> int:
        """Reads `let NAME = expression in`; gives the number of the name's token."""
        number = self.next = self.next + 1
        name = self.tokens[number]
        if not _NAME.match(name):
            raise self._unexpected("a name after `let`")
        if name in OPERATIONS or name in _KEYWORDS:
            raise self._error(number, f"{_shown(name)} is a word of the language: choose another name")
        if name in self.bound:
            raise self._error(number, f"{_shown(name)} is bound already: choose another name")
        self.next += 1
        self._take("=")
        value = self._expression()
        self._take("in")
        try:
            self.bound[name] = value._replace(term=share(value.term))
        except TermError as problem:
            raise self._error(value.at, str(problem)) from None
        return number

    def _call(self) -> _Read:
        start = self.next
        name = self.tokens[start]
        operation = OPERATIONS.get(name)
        if operation is None:
            if not _NAME.match(name):
                raise self._unexpected("an operation")
            raise self._error(start, self._unknown(name))
        self.next += 1
        arguments: list[_Read] = []
        values = _spelling(operation).defaults
        if self.tokens[self.next] == "(":
            outer = (self.bound, self.used)
            if operation.scopes:
                self.bound, self.used = {}, set()
            values = self._arguments(operation, arguments)
            self.bound, self.used = outer
        types = tuple([argument.term.type for argument in arguments])
        type_ = operation.signatures.get(types)
        if type_ is None:
            raise self._ill_typed(operation, start, arguments)
        depth, size = self._extent(start, arguments)
        terms = tuple([argument.term for argument in arguments])
        return _Read(Term(operation, values, terms, type_), start, depth, size)

    def _arguments(self, operation: Operation, arguments: list[_Read]) -> tuple[Value, ...]:
        """Reads what stands in parentheses: adds the arguments, gives the parameters' values."""
        tokens = self.tokens
        values: dict[str, Value] = {}
        self.next += 1
        while tokens[self.next] != ")":
            if tokens[self.next] != _END and tokens[self.next + 1] == "=" and _NAME.match(tokens[self.next]):
                self._parameter(operation, values)
            else:
                arguments.append(self._expression())
            if tokens[self.next] != ")":
                self._take(",")
        self.next += 1
        if not values:
            return _spelling(operation).defaults
        return tuple([values.get(parameter.name, parameter.default) for parameter in operation.parameters])

    def _parameter(self, operation: Operation, values: dict[str, Value]) -> None:
        number = self.next
        name, written = self.tokens[number], self.tokens[number + 2]
        known = _spelling(operation).parameters
        if name not in known:
            names = ", ".join(known) or "none"
            raise self._error(number, f"`{operation.name}` has no parameter {_shown(name)}; it has: {names}")
        if name in values:
            raise self._error(number, f"{_shown(name)} is given twice")
        self.next += 2
        if not _WORD.match(written):
            raise self._unexpected(f"a value of {_shown(name)}")
        by_text = known[name][1]
        if written not in by_text:
            raise self._error(self.next, f"{_shown(name)} is {_shown(written)}: choose one of {', '.join(by_text)}")
        values[name] = by_text[written]
        self.next += 1

    def _extent(self, number: int, arguments: list[_Read]) -> tuple[int, int]:
        depth = size = 1
        for argument in arguments:
            size += argument.size
            depth = max(depth, argument.depth + 1)
        if depth > MAX_NESTING:
            raise self._error(number, f"with its `let`s written out, the term is nested deeper than {MAX_NESTING}")
        if size > MAX_WRITTEN_OUT:
            message = f"with its `let`s written out, the term has more than {MAX_WRITTEN_OUT} operations"
            raise self._error(number, message)
        return depth, size

    def _ill_typed(self, operation: Operation, number: int, arguments: list[_Read]) -> TermError:
        types = [argument.term.type for argument in arguments]
        message = operation.mismatch(types)
        if len(types) == operation.arity:
            for index, each in enumerate(types):
                if each not in operation.accepted(index):
                    names = makers(tuple(operation.accepted(index)))
                    message += f"; what would fit is made by: {', '.join(names)}"
                    return self._error(arguments[index].at, message)
        return self._error(number, message)


def _words(text: str) -> list[str]:
    """The tokens of a text without its comments, and the end."""
    words: list[str] = _TOKEN.findall(text)
    if "#" in text:
        words = [word for word in words if word[0] != "#"]
    words.append(_END)
    return words


def _is_junk(token: str) -> bool:
    """Whether it is a character that no term has."""
    return token != _END and token not in "(),=" and not _WORD.match(token)


def _shown(token: str) -> str:
    return f"`{token[:40]}`" if token else "the end of the text"
