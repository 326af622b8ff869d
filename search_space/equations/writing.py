"""From a term to lines: what gets a name, and what is written in place."""

import re

from archloom.search_space.equations.brackets import BIG, loosest, needs_brackets
from archloom.search_space.equations.pieces import (
    Expression,
    Line,
    Local,
    Mark,
    Piece,
    Setting,
    Slot,
    Symbol,
    Use,
    Weight,
)
from archloom.search_space.equations.templates import INDEX, OWN_INDEX, Template, template
from archloom.search_space.operations import Operation
from archloom.search_space.terms import Term, Value
from archloom.search_space.types import DECAYS, FEATURES, GATES, KERNELS, MASKS, PER_HEAD, SCORES, VALUES, Type

LINE = 100
"""Characters of plain text that a line has at most, unless nothing in it can be named."""
LEFT = 12
"""Characters that are kept for what stands before the equals sign."""
SHORT = 20
"""Characters that may be written twice rather than named."""

QUERY = "q"
LETTERS = {
    Type.STREAM: "z",
    Type.LATENT: r"\ell",
    **dict.fromkeys(FEATURES, "k"),
    **dict.fromkeys(VALUES, "v"),
    Type.MIXED: "o",
    **dict.fromkeys(GATES, r"\beta"),
    **dict.fromkeys((Type.STEP, Type.STEP_CHANNELS), r"\Delta"),
    Type.ANGLE: r"\theta",
    Type.ROUTE: "e",
    **dict.fromkeys(DECAYS, "g"),
    **dict.fromkeys(MASKS, "M"),
    **dict.fromkeys(SCORES, "S"),
    **dict.fromkeys(KERNELS, "A"),
    Type.CONTRACTION: "L",
    **dict.fromkeys((Type.FILTER, Type.SPECTRUM), r"\psi"),
    Type.MIXER: "f",
    Type.CHANNEL: "m",
    Type.BLOCK: "B",
    Type.STACK: "R",
}
"""What a named thing is called, by its type; the first of two features that meet in a score is a query."""
MODEL = r"\mathrm{model}"
OTHER = "u"

INDICES = {
    (Type.STREAM, Type.LATENT, *FEATURES, *VALUES, *PER_HEAD, Type.ROUTE): "t",
    (*MASKS, *SCORES, *KERNELS): "ts",
    (Type.FILTER,): r"\tau",
    (Type.SPECTRUM,): "f",
}
FUNCTIONS = frozenset((Type.MIXER, Type.CHANNEL, Type.BLOCK))


def lines(term: Term) -> list[Line]:
    """The lines of a term in an order in which each uses only what stands above it; the last is the term itself."""
    writer = _Writer()
    writer.name(term, writer.expression(term, ""), role=MODEL if term.type is Type.STACK else "")
    return writer.lines


class _Writer:
    """Collects the lines of one term."""

    def __init__(self) -> None:
        self.lines: list[Line] = []
        self.bound: dict[int, Symbol] = {}  # `let`s, by identity
        self.blocks: dict[str, Symbol] = {}  # by text: a block that comes again is one function with other weights
        self.given: dict[str, Symbol] = {}  # inputs
        self.defined: dict[tuple[str, tuple[Piece, ...]], Symbol] = {}
        self.owners = 0

    def name(self, node: Term, expression: Expression, *, role: str = "") -> Use:
        """Gives an expression a line; its use at the index of its type."""
        symbol = Symbol(role or LETTERS.get(node.type, OTHER))
        own = "" if template(node.operation).entrywise else "t"
        index = natural(node)
        function = node.type in FUNCTIONS
        self.lines.append(Line(symbol, own if function else index, expression, ends=function))
        return Use(symbol, index)

    def expression(self, node: Term, role: str) -> Expression:
        """What a node computes, at the index of its type; `role` is the letter that parts of it are to have."""
        if node.operation.shares:
            if id(node) not in self.bound:
                bound = node.arguments[0]
                self.bound[id(node)] = self.name(bound, self.expression(bound, role), role=role).symbol
            return Expression((Use(self.bound[id(node)], natural(node)),))
        if given := _given(node.operation):
            symbol = self.given.setdefault(given, Symbol(given))
            return Expression((Use(symbol, natural(node)),))
        if node.type is Type.BLOCK and node.text in self.blocks:
            return Expression((Use(self.blocks[node.text], ""),))
        return self._composed(node, role)

    def _composed(self, node: Term, role: str) -> Expression:
        form = template(node.operation)
        self.owners += 1
        owner = self.owners
        parts = [self._operand(node, index, role) for index in range(node.operation.arity)]
        while self._longest(node, form, parts, owner) > LINE - LEFT:
            long = [index for index, part in enumerate(parts) if not part.atomic]
            if not long:
                break
            longest = max(long, key=lambda index: parts[index].length)
            child = node.arguments[longest]
            parts[longest] = Expression((self.name(child, parts[longest], role=_role(node, longest, role)),))
        pieces = _filled(form.value, node, parts, self._definitions(node, form, parts, owner), owner)
        inner = [note for part in parts for note in part.notes]
        return Expression(pieces, tuple(dict.fromkeys([*inner, *_notes(node, form)])))

    def _longest(self, node: Term, form: Template, parts: list[Expression], owner: int) -> int:
        """Characters of the longest line that a template would make of its parts."""
        letters = {local.letter: Symbol(local.letter) for local, _ in form.definitions}
        marks = [form.value, *(each for _, each in form.definitions)]
        return max(Expression(_filled(each, node, parts, letters, owner)).length for each in marks)

    def _operand(self, node: Term, argument: int, role: str) -> Expression:
        """An argument as it will be put into its node's template: named already if it must be."""
        child = node.arguments[argument]
        role = _role(node, argument, role)
        expression = self.expression(child, role)
        if expression.atomic or not _must_be_named(node, argument, expression):
            return expression
        use = self.name(child, expression, role=role)
        if child.type is Type.BLOCK:
            self.blocks[child.text] = use.symbol
        return Expression((use,))

    def _definitions(self, node: Term, form: Template, parts: list[Expression], owner: int) -> dict[str, Symbol]:
        """Lines for the letters that a template defines, unless the same has been defined."""
        letters: dict[str, Symbol] = {}
        for local, marks in form.definitions:
            letters[local.letter] = symbol = Symbol(local.letter)
            pieces = _filled(marks, node, parts, letters, owner)
            known = self.defined.setdefault((local.letter, pieces), symbol)
            if known is symbol:
                self.lines.append(Line(symbol, local.index, Expression(pieces)))
            letters[local.letter] = known
        return letters


def natural(node: Term) -> str:
    """The index that an expression of this type is written at: a token's, a pair's, a lag, or none."""
    for types, index in INDICES.items():
        if node.type in types:
            return index
    return ""


def _given(operation: Operation) -> str:
    """The letter of an input, a leaf whose equation is an indexed letter; nothing for any other operation."""
    match = re.fullmatch(rf"([A-Za-z]){INDEX}", operation.equation)
    return match[1] if match and operation.arity == 0 and not operation.parametric else ""


def _role(node: Term, argument: int, role: str) -> str:
    """The letter for an argument of a node that has this role itself."""
    child = node.arguments[argument]
    if child.type not in FEATURES:
        return ""
    if node.type not in FEATURES:
        features = [index for index, each in enumerate(node.arguments) if each.type in FEATURES]
        return QUERY if argument == features[0] and len(features) > 1 else LETTERS[child.type]
    return role


def _must_be_named(node: Term, argument: int, expression: Expression) -> bool:
    child, form = node.arguments[argument], template(node.operation)
    indices = form.indices(argument)
    if child.type in FUNCTIONS or (child.type in FEATURES and node.type in SCORES):
        return True
    if child.type is Type.STACK:
        return False
    own = {natural(child), ""} if form.entrywise else {natural(child)}
    strange = [index for index in indices if index not in own]
    if strange and not (expression.length <= SHORT and all(_shifts(expression, index) for index in strange)):
        return True
    if len(indices) > 1 and expression.length > SHORT:
        return True
    places = [
        position for position, mark in enumerate(form.value) if isinstance(mark, Slot) and mark.argument == argument
    ]
    return loosest(expression.pieces) == BIG and any(
        needs_brackets(form.value, position, expression.pieces) for position in places
    )


def _shifts(expression: Expression, index: str) -> bool:
    """Whether an expression at token t is one at an earlier token when its uses are."""
    said = "".join(piece for piece in expression.pieces if isinstance(piece, str))
    tokens = all(piece.index == "t" for piece in expression.pieces if isinstance(piece, Use))
    return index.startswith("t-") and tokens and not OWN_INDEX.search(said)


def _filled(
    marks: tuple[Mark, ...], node: Term, parts: list[Expression], letters: dict[str, Symbol], owner: int
) -> tuple[Piece, ...]:
    """A template's marks as pieces, brackets set where an argument needs them."""
    pieces: list[Piece] = []
    for position, mark in enumerate(marks):
        match mark:
            case Slot(argument, index):
                part = parts[argument]
                inner = _at(part.pieces, index, natural(node.arguments[argument]), template(node.operation).entrywise)
                needed = not part.atomic and needs_brackets(marks, position, part.pieces)
                pieces += ["(", *inner, ")"] if needed else inner
            case Local(letter, index):
                pieces.append(Use(letters[letter], index))
            case Weight(letter, subscript, _):
                pieces.append(Weight(letter, subscript, owner))
            case Setting(name):
                pieces.append(_shown(node.value(name)))
            case str():
                pieces.append(mark)
    return tuple(_counted(pieces))


def _at(pieces: tuple[Piece, ...], index: str, own: str, entrywise: bool) -> list[Piece]:
    """The pieces at another index; at no index an entry-by-entry operation takes them at their own."""
    if index == own or (entrywise and not index):
        return list(pieces)
    return [Use(piece.symbol, index) if isinstance(piece, Use) else piece for piece in pieces]


def _counted(pieces: list[Piece]) -> list[Piece]:
    """Neighbouring strings joined, `4-1` between them as `3`."""
    joined: list[Piece] = []
    for piece in pieces:
        if isinstance(piece, str) and joined and isinstance(joined[-1], str):
            joined[-1] = re.sub(r"\b(\d+)-(\d+)\b", lambda m: str(int(m[1]) - int(m[2])), joined[-1] + piece)
        else:
            joined.append(piece)
    return joined


def _shown(value: Value) -> str:
    return str(value) if isinstance(value, int) else rf"\mathrm{{{value.replace('_', ' ')}}}"


def _notes(node: Term, form: Template) -> list[str]:
    """Parameters that the equation does not show and that are not at their defaults; outside mixers all that vary."""
    outer = node.type in (*FUNCTIONS, Type.STACK)
    shown = [each for each in node.operation.parameters if each.name in form.unsaid]
    return [
        f"{each.name}={node.value(each.name)}"
        for each in shown
        if (outer and len(each.drawn) > 1) or node.value(each.name) != each.default
    ]
