"""The readable form of a term: `parse` and its inverses, `one_line` and `pretty`.

    term   ::=  ["grammar" N] expr
    expr   ::=  ("let" NAME "=" expr "in")* (NAME | OPERATION ["(" (expr | NAME "=" VALUE), ... ")"])

`#` starts a comment. A parameter left out takes its default; an operation without arguments may be written bare. A
`let` may stand before any expression inside a mixer and belongs to that mixer. `parse(one_line(t)) == t`.
"""

import difflib
import re
from dataclasses import dataclass
from functools import cache

from archloom.search_space import GRAMMAR_VERSION
from archloom.search_space.operations import OPERATIONS, Operation, share
from archloom.search_space.terms import Term, TermError, Value
from archloom.search_space.types import LET_PREFIX, Type

MAX_NESTING = 100
MAX_LENGTH = 100_000
LINE_WIDTH = 100

_TOKEN = re.compile(r"(?P<space>\s+|#[^\n]*)|(?P<name>[A-Za-z_]\w*)|(?P<number>-?\d+)|(?P<mark>[(),=])", re.ASCII)


@dataclass(frozen=True, slots=True)
class _Token:
    kind: str  # "name", "number", "mark" or "end"
    text: str
    at: int


def parse(text: str) -> Term:
    """The typed term that the text writes. A TermError shows the line, a caret, what was expected and what would fit."""
    return _Parser(text).whole()


def one_line(term: Term) -> str:
    """The term on one line, `let`s named by type and order of first use."""
    lets: list[str] = []
    body = _render(term, {}, lets)
    return "".join(lets) + body


def pretty(term: Term, *, width: int = LINE_WIDTH) -> str:
    """The term broken over lines of at most `width` characters where that is possible."""
    return _pretty(term, 0, width, {}, top=True)


def _render(node: Term, names: dict[int, str], lets: list[str]) -> str:
    operation = node.operation
    if operation.shares:
        if id(node) not in names:
            value = _render(node.arguments[0], names, lets)
            names[id(node)] = _fresh(node, names)
            lets.append(f"let {names[id(node)]} = {value} in ")
        return names[id(node)]
    if operation.scopes:
        if node._text is not None:
            return node._text
        inner: list[str] = []
        body = _render(node.arguments[0], {}, inner)
        text = node._text = f"{operation.name}({''.join(inner)}{body}{operation.tails[node.values]}"
        return text
    if not node.arguments:
        return operation.tails[node.values]
    parts = [_render(argument, names, lets) for argument in node.arguments]
    return f"{operation.name}({', '.join(parts)}{operation.tails[node.values]}"


def _fresh(node: Term, names: dict[int, str]) -> str:
    prefix = LET_PREFIX[node.type]
    return f"{prefix}{1 + sum(name[0] == prefix for name in names.values())}"


def _pretty(node: Term, indent: int, width: int, names: dict[int, str], *, top: bool = False) -> str:
    pad = " " * indent
    bindings: list[str] = []
    if top or node.operation.scopes:
        names = {}
    if top and not node.operation.scopes and node.type.name in _BELOW_MIXER:
        bindings = _bindings(node, indent, width, names)
    flat = _render(node, dict(names), [])
    if not bindings and indent + len(flat) <= width and " in " not in flat:
        return flat
    inner = indent + 2
    parts: list[str] = []
    if node.operation.scopes:
        parts += _bindings(node.arguments[0], inner, width, names)
    arguments = [_pretty(argument, inner, width, names) for argument in node.arguments]
    tail = node.operation.tails[node.values]
    if node.operation.shares:
        return "".join(f"{line}\n{pad}" for line in bindings) + names.get(id(node), flat)
    lines = [f"{' ' * inner}{line}" for line in parts]
    lines += [f"{' ' * inner}{argument}," for argument in arguments]
    lines[-1] = lines[-1][:-1]
    parameters = tail[2:-1] if tail.startswith(", ") else ""
    if parameters:
        lines[-1] += ","
        lines.append(f"{' ' * inner}{parameters}")
    body = f"{node.operation.name}(\n" + "\n".join(lines) + f"\n{pad})"
    return "".join(f"{line}\n{pad}" for line in bindings) + body


def _bindings(body: Term, indent: int, width: int, names: dict[int, str]) -> list[str]:
    """The `let` lines of a mixer's body, dependencies first; fills `names`."""
    lines: list[str] = []

    def visit(node: Term) -> None:
        if node.operation.shares:
            if id(node) in names:
                return
            visit(node.arguments[0])
            value = _pretty(node.arguments[0], indent, width, names)
            names[id(node)] = _fresh(node, names)
            lines.append(f"let {names[id(node)]} = {value} in")
            return
        for argument in node.arguments:
            visit(argument)

    visit(body)
    return lines


_BELOW_MIXER = frozenset(
    each.name for each in Type if each not in (Type.MIXER, Type.CHANNEL, Type.BLOCK, Type.STACK)
)


@cache
def makers(types: tuple[Type, ...]) -> tuple[str, ...]:
    """Names of the operations that can make one of these types."""
    return tuple(op.name for op in OPERATIONS.values() if set(op.signatures.values()) & set(types))


class _Parser:
    def __init__(self, text: str) -> None:
        self.text = text
        if len(text) > MAX_LENGTH:
            raise TermError(f"the term has {len(text)} characters; at most {MAX_LENGTH} are read")
        self.tokens = self._tokens()
        self.next = 0
        self.bound: dict[str, Term] = {}
        self.used: set[str] = set()
        self.nesting = 0

    def whole(self) -> Term:
        self._header()
        term, _ = self._expression()
        token = self.tokens[self.next]
        if token.kind != "end":
            raise self._error(token.at, f"expected the end of the term, got `{token.text}`")
        return term

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
        tokens.append(_Token("end", "the end of the text", len(self.text.rstrip())))
        return tokens

    def _peek(self, text: str) -> bool:
        token = self.tokens[self.next]
        return token.kind != "end" and token.text == text

    def _take(self, kind: str, what: str) -> _Token:
        token = self.tokens[self.next]
        if token.kind != kind:
            raise self._error(token.at, f"expected {what}, got `{token.text}`")
        self.next += 1
        return token

    def _expect(self, mark: str) -> _Token:
        token = self.tokens[self.next]
        if token.kind == "end" or token.text != mark:
            raise self._error(token.at, f"expected `{mark}`, got `{token.text}`")
        self.next += 1
        return token

    def _error(self, at: int, message: str) -> TermError:
        line = self.text.count("\n", 0, at) + 1
        start = self.text.rfind("\n", 0, at) + 1
        end = self.text.find("\n", at)
        shown = self.text[start : end if end >= 0 else len(self.text)]
        column = at - start
        left = max(0, column - 60)
        return TermError(
            f"line {line}, column {column + 1}: {message}\n    {shown[left : left + 100]}\n    {' ' * (column - left)}^"
        )

    # -- grammar --------------------------------------------------------------------------------------------------

    def _header(self) -> None:
        if not self._peek("grammar"):
            return
        self.next += 1
        version = self._take("number", "a grammar version")
        if version.text != str(GRAMMAR_VERSION):
            raise self._error(
                version.at, f"grammar {version.text} is not known here: this release reads grammar {GRAMMAR_VERSION}"
            )

    def _expression(self) -> tuple[Term, int]:
        """The term and where it starts."""
        self.nesting += 1
        if self.nesting > MAX_NESTING:
            raise self._error(self.tokens[self.next].at, f"nested deeper than {MAX_NESTING}")
        start, opened = self.tokens[self.next].at, []
        while self._peek("let"):
            opened.append(self._binding())
        term = self._call()
        for name, at in opened:
            if name not in self.used:
                raise self._error(at, f"`{name}` is bound and never used")
            del self.bound[name]
            self.used.discard(name)
        self.nesting -= 1
        return term, start

    def _binding(self) -> tuple[str, int]:
        self.next += 1
        name = self._take("name", "a name after `let`")
        if name.text in OPERATIONS or name.text in ("let", "in", "grammar"):
            raise self._error(name.at, f"`{name.text}` is an operation: choose another name")
        if name.text in self.bound:
            raise self._error(name.at, f"`{name.text}` is bound already: choose another name")
        self._expect("=")
        value, at = self._expression()
        self._expect("in")
        try:
            self.bound[name.text] = share(value)
        except TermError as problem:
            raise self._error(at, str(problem)) from None
        return name.text, name.at

    def _call(self) -> Term:
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
        arguments, starts, values = self._arguments(operation)
        self.bound, self.used = outer
        return self._typed(operation, token, arguments, starts, values)

    def _arguments(self, operation: Operation) -> tuple[list[Term], list[int], dict[str, Value]]:
        arguments: list[Term] = []
        starts: list[int] = []
        values: dict[str, Value] = {}
        if not self._peek("("):
            return arguments, starts, values
        self.next += 1
        while not self._peek(")"):
            name, after = self.tokens[self.next], self.tokens[min(self.next + 1, len(self.tokens) - 1)]
            if name.kind == "name" and after.text == "=" and after.kind == "mark":
                self._parameter(operation, values)
            else:
                term, at = self._expression()
                arguments.append(term)
                starts.append(at)
            if not self._peek(")"):
                self._expect(",")
        self.next += 1
        return arguments, starts, values

    def _parameter(self, operation: Operation, values: dict[str, Value]) -> None:
        name = self._take("name", "a parameter")
        self._expect("=")
        if name.text not in operation.position:
            known = ", ".join(operation.position) or "none"
            raise self._error(name.at, f"`{operation.name}` has no parameter `{name.text}`; it has: {known}")
        if name.text in values:
            raise self._error(name.at, f"`{name.text}` is given twice")
        token = self.tokens[self.next]
        if token.kind not in ("name", "number"):
            raise self._error(token.at, f"expected a value of `{name.text}`, got `{token.text}`")
        self.next += 1
        choices = operation.parameters[operation.position[name.text]].choices
        by_text: dict[str, Value] = {str(choice): choice for choice in choices}
        if token.text not in by_text:
            raise self._error(token.at, f"`{name.text}` is {token.text[:20]}: choose one of {', '.join(by_text)}")
        values[name.text] = by_text[token.text]

    def _typed(
        self, operation: Operation, token: _Token, arguments: list[Term], starts: list[int], values: dict[str, Value]
    ) -> Term:
        types = [argument.type for argument in arguments]
        result = operation.signatures.get(tuple(types))
        if result is None:
            at, fits = token.at, ""
            if len(types) == operation.arity:
                for index, each in enumerate(types):
                    if each not in operation.accepted(index):
                        names = makers(tuple(operation.accepted(index)))
                        at = starts[index]
                        fits = f"; what would fit is made by: {', '.join(names)}"
                        break
            raise self._error(at, operation.mismatch(types) + fits)
        chosen = tuple([values.get(p.name, p.default) for p in operation.parameters])
        return Term(operation, chosen, tuple(arguments), result)

    def _unknown(self, name: str) -> str:
        known = [*OPERATIONS, *self.bound]
        near = difflib.get_close_matches(name[:40], known, n=1)
        hint = f": did you mean `{near[0]}`?" if near else "; `archloom zoo --operations` lists them"
        return f"`{name[:40]}` is neither an operation nor bound by a `let`{hint}"
