"""What a line of an equation is made of, before its letters are numbered: text, uses of named things, and weights.

`Weight` and `Setting` also stand in templates, beside `Slot` (an argument) and `Local` (a letter the template defines).
"""

import re
from collections.abc import Callable
from dataclasses import dataclass

from archloom.search_space.equations.plain_text import plain


@dataclass(eq=False, slots=True)
class Symbol:
    """Something with a line of its own; symbols of one letter are told apart by numbers once all lines are known."""

    letter: str


@dataclass(frozen=True, slots=True)
class Use:
    """A symbol at an index, which may be empty."""

    symbol: Symbol
    index: str


@dataclass(frozen=True, slots=True)
class Weight:
    """A weight of one operation; `owner` numbers the operations of a term, 0 in a template."""

    letter: str
    subscript: str
    owner: int


@dataclass(frozen=True, slots=True)
class Slot:
    """Argument `argument` of the operation at an index."""

    argument: int
    index: str


@dataclass(frozen=True, slots=True)
class Local:
    """A letter that the template itself defines."""

    letter: str
    index: str


@dataclass(frozen=True, slots=True)
class Setting:
    """The value of a parameter."""

    parameter: str


Piece = str | Use | Weight
Mark = str | Slot | Local | Weight | Setting


@dataclass(frozen=True, slots=True)
class Expression:
    """Pieces at the index that the type of the term has, and the parameters that they leave unsaid."""

    pieces: tuple[Piece, ...]
    notes: tuple[str, ...] = ()

    @property
    def atomic(self) -> bool:
        return len(self.pieces) == 1 and isinstance(self.pieces[0], Use)

    @property
    def length(self) -> int:
        return len(plain(latex(self.pieces, draft)))


@dataclass(frozen=True, slots=True)
class Line:
    """`symbol` at `index` equals the expression. What `ends` is a function: the index is that of its result."""

    symbol: Symbol
    index: str
    expression: Expression
    ends: bool = False


def subscript(text: str) -> str:
    """`_t`, `_{ts}`, or nothing."""
    return "" if not text else f"_{text}" if len(text) == 1 or re.fullmatch(r"\\[A-Za-z]+", text) else f"_{{{text}}}"


def draft(piece: Use | Weight) -> str:
    """About as long as the piece will be, rather longer."""
    return f"k1{subscript(piece.index)}" if isinstance(piece, Use) else f"W_{{k1,{piece.subscript or 'a'}}}"


def latex(pieces: tuple[Piece, ...], shown: Callable[[Use | Weight], str]) -> str:
    """The pieces joined; a command is kept apart from a letter after it."""
    text = ""
    for piece in pieces:
        written = piece if isinstance(piece, str) else shown(piece)
        apart = re.search(r"\\[A-Za-z]+$", text) and written[:1].isalpha()
        text += f" {written}" if apart else written
    return text
