"""Lines as text: symbols of one letter are numbered in order, weights named after the line they stand in."""

from collections import defaultdict
from dataclasses import dataclass
from string import ascii_lowercase

from archloom.search_space.equations.pieces import Line, Piece, Symbol, Use, Weight, latex, subscript
from archloom.search_space.equations.plain_text import plain

PRIVATE = 0xE000
"""The first letter that Unicode leaves to private use: one stands for each name while the rest is translated."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Equation:
    """One line, in LaTeX (without dollar signs) and as plain text; `note` holds parameters that the line does not show.

    `ends` marks the last line of a mixer, channel mixer or block.
    """

    latex: str
    text: str
    note: str = ""
    ends: bool = False


def numbered(lines: list[Line]) -> tuple[Equation, ...]:
    """The lines with every symbol and weight under a name of its own."""
    names = _Names(numbers=_numbers(lines), labels=_labels(lines))
    return tuple(_equation(line, names) for line in lines)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Names:
    """`numbers` tells symbols of one letter apart, `labels` weights of one letter: by their line, and there by one
    more letter. Both are empty where nothing needs telling apart."""

    numbers: dict[Symbol, str]
    labels: dict[Weight, tuple[Symbol, str]]

    def latex(self, piece: Use | Weight) -> str:
        if isinstance(piece, Use):
            return piece.symbol.letter + subscript(_listed(self.numbers[piece.symbol], piece.index))
        symbol, letter = self.labels.get(piece, (None, ""))
        line = "" if symbol is None else symbol.letter + subscript(self.numbers[symbol])
        return piece.letter + subscript(_listed(line, letter, piece.subscript))

    def text(self, piece: Use | Weight) -> str:
        if isinstance(piece, Use):
            return plain(piece.symbol.letter) + self.numbers[piece.symbol] + plain(subscript(piece.index))
        symbol, letter = self.labels.get(piece, (None, ""))
        line = "" if symbol is None else plain(symbol.letter) + self.numbers[symbol]
        return plain(piece.letter + subscript(_listed(line, letter, piece.subscript)))


def _listed(*parts: str) -> str:
    return ",".join(filter(None, parts))


def _numbers(lines: list[Line]) -> dict[Symbol, str]:
    groups: defaultdict[str, dict[Symbol, None]] = defaultdict(dict)
    for line in lines:
        for piece in (*line.expression.pieces, Use(line.symbol, "")):
            if isinstance(piece, Use):
                groups[piece.symbol.letter][piece.symbol] = None
    several = {letter for letter, group in groups.items() if len(group) > 1}
    return {
        symbol: str(number) if letter in several else ""
        for letter, group in groups.items()
        for number, symbol in enumerate(group, 1)
    }


def _labels(lines: list[Line]) -> dict[Weight, tuple[Symbol, str]]:
    places: defaultdict[tuple[str, str], dict[Weight, Symbol]] = defaultdict(dict)
    for line in lines:
        for piece in line.expression.pieces:
            if isinstance(piece, Weight):
                places[piece.letter, piece.subscript].setdefault(piece, line.symbol)
    labels: dict[Weight, tuple[Symbol, str]] = {}
    for found in places.values():
        for weight, symbol in found.items() if len(found) > 1 else ():
            beside = [each for each, at in found.items() if at is symbol]
            labels[weight] = symbol, _letter(beside.index(weight)) if len(beside) > 1 else ""
    # A label may read like the subscript of another weight: the `W` of a line `o` and the `W_o` of a mixer.
    taken = {(of.letter, symbol.letter) for of, (symbol, _) in labels.items()}
    for (letter, lowered), found in places.items():
        if (letter, lowered) in taken:
            labels.update({weight: (symbol, "") for weight, symbol in found.items() if weight not in labels})
    return labels


def _letter(number: int) -> str:
    """a, b, ..., z, ba, bb, ..."""
    above, place = divmod(number, len(ascii_lowercase))
    return (_letter(above) if above else "") + ascii_lowercase[place]


def _equation(line: Line, names: _Names) -> Equation:
    if line.ends:
        left: tuple[Piece, ...] = (Use(line.symbol, ""), f"(x){subscript(line.index)}")
    else:
        left = (Use(line.symbol, line.index),)
    pieces = (*left, " = ", *line.expression.pieces)
    shown: list[str] = []

    def stand_in(piece: Use | Weight) -> str:
        shown.append(names.text(piece))
        return chr(PRIVATE + len(shown) - 1)

    text = plain(latex(pieces, stand_in))
    for place, name in enumerate(shown):
        text = text.replace(chr(PRIVATE + place), name)
    return Equation(latex=latex(pieces, names.latex), text=text, note=" ".join(line.expression.notes), ends=line.ends)
