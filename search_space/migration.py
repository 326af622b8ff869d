"""Terms of earlier grammar versions, rewritten token by token into what they mean today.

`MIGRATIONS[n]` takes the tokens of a text of grammar n, each with its number in that text so that errors still point
into it, and gives those of grammar n + 1. Nothing is looked up in the table of operations, which knows only today's.
Text that is no term is passed on as it is: the parser says what is wrong with it.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

Token = tuple[str, int]
"""A token and the number of the token in the text that it comes from."""


def migrated(tokens: Sequence[str], version: int, to: int) -> list[Token]:
    """The tokens of a term (without header) of grammar `version` in grammar `to`; KeyError if there is no way."""
    found = [(token, number) for number, token in enumerate(tokens)]
    for step in range(version, to):
        found = MIGRATIONS[step](found)
    return found


@dataclass(slots=True)
class _Open:
    """A parenthesis that is still open: of which unary mask, if any, and the width it was given."""

    mask: str | None
    width: list[Token] = field(default_factory=list)


def _masks_become_terms(tokens: Sequence[Token]) -> list[Token]:
    """`causal(S)` becomes `masked(S, visible)`, and `window(S, width=w)` becomes `masked(S, window(width=w))`."""
    found: list[Token] = []
    opened: list[_Open] = []
    at = 0
    while at < len(tokens):
        token, origin = tokens[at]
        following = [each for each, _ in tokens[at + 1 : at + 3]]
        inside = opened[-1] if opened else None
        if token in _UNARY_MASKS and following[:1] == ["("]:
            opened.append(_Open(token))
            found += [("masked", origin), ("(", tokens[at + 1][1])]
            at += 2
        elif inside and inside.mask == "window" and token == "width" and following[:1] == ["="] and following[1:]:
            inside.width = list(tokens[at : at + 3])
            at += 4 if tokens[at + 3 : at + 4] and tokens[at + 3][0] == "," else 3
        else:
            if token == "(":
                opened.append(_Open(None))
            elif token == ")" and opened:
                found += _mask(opened.pop(), found, origin)
            found.append((token, origin))
            at += 1
    return found


def _mask(closed: _Open, before: list[Token], origin: int) -> Iterator[Token]:
    """The mask as a second argument; a comma that stood before a width or the closing parenthesis goes."""
    if closed.mask is None:
        return
    if before[-1][0] == ",":
        before.pop()
    yield ",", origin
    yield _UNARY_MASKS[closed.mask], origin
    if closed.mask == "window":
        yield "(", origin
        yield from closed.width or [("width", origin), ("=", origin), (_WINDOW_WIDTH, origin)]
        yield ")", origin


_UNARY_MASKS = {"causal": "visible", "window": "window"}
_WINDOW_WIDTH = "16"  # what grammar 1 took where none was written

MIGRATIONS: Mapping[int, Callable[[Sequence[Token]], list[Token]]] = {1: _masks_become_terms}
