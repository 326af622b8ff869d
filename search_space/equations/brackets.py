"""When an expression put into a template needs brackets there."""

import re

from archloom.search_space.equations.pieces import Mark, Piece

ATOM, PRODUCT, QUOTIENT, SUM, BIG = range(5)
"""How loosely an expression holds together: one thing, things side by side, a quotient or entrywise product, a sum,
and a sum over an index."""

_SPACE = re.compile(r"(?:\\[,;! ]|\s)+")
_OPENS = re.compile(r"(?:^|[(\[{,;=|]|\\lVert|\\langle|\\lvert|\\left.)$")
_CLOSES = re.compile(r"(?:$|[)\]},;|]|\\rVert|\\rangle|\\rvert|\\right)")
_PAIRS = {"(": ")", "[": "]", "{": "}"}


def needs_brackets(marks: tuple[Mark, ...], position: int, pieces: tuple[Piece, ...]) -> bool:
    loose = loosest(pieces)
    left = _SPACE.sub(" ", "".join(map(_flat, marks[:position]))).rstrip()
    right = _SPACE.sub(" ", "".join(map(_flat, marks[position + 1 :]))).lstrip()
    opens, closes = bool(_OPENS.search(left)), bool(_CLOSES.match(right))
    if opens and closes:
        return False
    if right.startswith("^"):
        return loose != ATOM or "^" in _outermost(pieces)
    added_left, added_right = opens or left.endswith("+"), closes or right.startswith(("+", "-"))
    if loose == BIG:
        return not (added_left and closes)
    if loose in (SUM, QUOTIENT):
        return not (added_left and added_right)
    return loose == PRODUCT and left.endswith("/")


def _flat(mark: Mark) -> str:
    return mark if isinstance(mark, str) else "□"


def loosest(pieces: tuple[Piece, ...]) -> int:
    outer = _outermost(pieces)
    if re.search(r"\\(?:sum|prod|max|min)(?![A-Za-z])", outer):
        return BIG
    if re.search(r"(?<![\^_])\s(?:[+-]|\\lor)\s|^-", outer):
        return SUM
    if re.search(r"\\odot|/|\\land|\\times|\\cdot|\\ast|\\otimes", outer):
        return QUOTIENT
    return ATOM if re.fullmatch(r"(?:\\mathrm|\\?[A-Za-z]+|□)?(?:[_^]□|[_^]\w)*(?:□|\w)?", outer) else PRODUCT


def _outermost(pieces: tuple[Piece, ...]) -> str:
    """The LaTeX with every bracketed part and every symbol as a square."""
    text = "".join(piece if isinstance(piece, str) else "□" for piece in pieces)
    text = text.replace(r"\langle", "[").replace(r"\rangle", "]").replace(r"\lVert", "[").replace(r"\rVert", "]")
    out, closing = [], list[str]()
    for letter in text:
        if closing and letter == closing[-1]:
            closing.pop()
        elif letter in _PAIRS:
            closing.append(_PAIRS[letter])
            if len(closing) == 1:
                out.append("□")
        elif not closing:
            out.append(letter)
    return "".join(out).strip()
