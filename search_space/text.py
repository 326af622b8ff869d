"""The readable form of a term: `parse` and its inverses, `one_line` and `pretty`.

    term   ::=  ["grammar" N] expr
    expr   ::=  ("let" NAME "=" expr "in")* (NAME | OPERATION ["(" (expr | NAME "=" VALUE), ... ")"])

`#` starts a comment. A parameter left out takes its default, and text leaves out those that have it; an operation
without arguments may be written bare. A `let` may stand before any expression inside a mixer and belongs to that mixer.
`parse(one_line(t)) == t`.
"""

from functools import cache

from archloom.search_space.operations import Operation
from archloom.search_space.parsing import parse
from archloom.search_space.terms import Term, Value
from archloom.search_space.types import LET_PREFIX

__all__ = ["one_line", "parse", "pretty"]

LINE_WIDTH = 100
INDENT = 2

Names = dict[int, str]
"""What the `let`s of the mixer at hand are called, by identity of the shared node."""


def one_line(term: Term) -> str:
    """The term on one line, `let`s named by type and order of first use."""
    lets: list[str] = []
    body = _render(term, {}, lets)
    return "".join(lets) + body


def pretty(term: Term, *, width: int = LINE_WIDTH) -> str:
    """The term over lines of at most `width` characters where that is possible; every `let` begins a line."""
    names: Names = {}
    return "\n".join([*_bindings(term, width, names), *_lines(term, width, names)])


def _render(node: Term, names: Names, lets: list[str]) -> str:
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
        text = node._text = f"{operation.name}({''.join(inner)}{body}{_tail(operation, node.values)}"
        return text
    tail = _tail(operation, node.values) if node.values else ")"
    if len(node.arguments) == 1:
        return f"{operation.name}({_render(node.arguments[0], names, lets)}{tail}"
    if not node.arguments:
        return tail if node.values else operation.name
    parts = [_render(argument, names, lets) for argument in node.arguments]
    return f"{operation.name}({', '.join(parts)}{tail}"


@cache
def _tail(operation: Operation, values: tuple[Value, ...]) -> str:
    """How the text of an operation ends: `, width=8)`; without arguments the whole of it."""
    written = ", ".join(
        f"{parameter.name}={value}"
        for parameter, value in zip(operation.parameters, values, strict=True)
        if value != parameter.default
    )
    if not written:
        return ")" if operation.arity else operation.name
    return f", {written})" if operation.arity else f"{operation.name}({written})"


def _fresh(node: Term, names: Names) -> str:
    prefix = LET_PREFIX[node.type]
    return f"{prefix}{1 + sum(name[0] == prefix for name in names.values())}"


def _lines(node: Term, width: int, names: Names, *, beside: int = 0) -> list[str]:
    """An expression as lines without indent; `beside` characters will share its line if it is a single one."""
    operation = node.operation
    if operation.shares:
        return [names[id(node)]]
    tail = _tail(operation, node.values)
    if not node.arguments:
        return [tail]
    names = {} if operation.scopes else names
    bindings = _bindings(node.arguments[0], width - INDENT, names) if operation.scopes else []
    parts = [_lines(argument, width - INDENT, names, beside=1) for argument in node.arguments]
    if not bindings and all(len(part) == 1 for part in parts):
        flat = f"{operation.name}({', '.join(part[0] for part in parts)}{tail}"
        if len(flat) + beside <= width:
            return [flat]
    if tail != ")":
        parts.append([tail.removeprefix(", ").removesuffix(")")])
    commas = [line for *first, last in parts[:-1] for line in (*first, f"{last},")]
    body = [" " * INDENT + line for line in (*bindings, *commas, *parts[-1])]
    return [f"{operation.name}(", *body, ")"]


def _bindings(body: Term, width: int, names: Names) -> list[str]:
    """The `let`s of a mixer's body as lines, what they depend on first; fills `names`."""
    lines: list[str] = []

    def visit(node: Term) -> None:
        if node.operation.scopes or id(node) in names:
            return
        for argument in node.arguments:
            visit(argument)
        if node.operation.shares:
            names[id(node)] = name = _fresh(node, names)
            before, after = f"let {name} = ", " in"
            first, *rest = _lines(node.arguments[0], width, names, beside=len(before) + len(after))
            lines.extend([before + first, *rest])
            lines[-1] += after

    visit(body)
    return lines
