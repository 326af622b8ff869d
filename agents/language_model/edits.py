"""A term's text after the edits that a language model wrote: search and replace, token by token.

An edit holds where its text stands exactly once. White space and comments do not matter, and a name never stands inside
a longer one. Whether what comes out is a term is for the parser to say.
"""

import re
from collections.abc import Sequence
from difflib import SequenceMatcher

from archloom.agents.language_model.answers import Edit
from archloom.agents.language_model.quoting import plain
from archloom.search_space.terms import Term, TermError

MAX_COUNTED = 20
"""Places of a text that are counted before it is said to stand there so often or more."""
MAX_COMPARED = (200, 5_000)
"""Tokens of an edit, and of the term, among which what stands nearest is looked for."""
MAX_SHOWN = 200
"""Characters of a text that an error shows."""

_TOKEN = re.compile(r"#[^\n]*|[A-Za-z_]\w*|-?\d+|\S", re.ASCII)  # as the parser of terms reads
_WORD = re.compile(r"[A-Za-z_0-9-]", re.ASCII)


def edited(parent: Term, edits: Sequence[Edit]) -> str:
    """The parent's text, on one line, after the edits, each made in what the ones before it left.

    Errors: `TermError`, with the edit and what to do, for one that stands nowhere or more than once or changes nothing,
    and for edits that together change nothing.
    """
    before = tokens = _tokens(parent.text)
    for number, edit in enumerate(edits):
        tokens = _after(tokens, edit, f"edits[{number}]")
    if tokens == before:
        raise TermError("the edits together change nothing; write edits that lead to another term")
    return _line(tokens)


def _after(tokens: list[str], edit: Edit, name: str) -> list[str]:
    """The tokens after one edit. Errors: as `edited`."""
    old, new = _tokens(edit.replace), _tokens(edit.by)
    shown = f"{name}: `{plain(edit.replace, length=MAX_SHOWN)}`"
    if not old:
        raise TermError(f'{name}: "replace" is empty; write the part of the parent\'s text that is to be replaced')
    if old == new:
        raise TermError(f'{shown} is replaced by itself; write in "by" what is to stand there')
    places = _places(tokens, old)
    if not places:
        raise TermError(f"{shown} does not stand in the text; {_nearest(tokens, old)}")
    if len(places) > 1:
        often = f"{len(places)} times" + (" or more" if len(places) == MAX_COUNTED else "")
        raise TermError(f"{shown} stands in the text {often}; write more of what stands around the one that you mean")
    return tokens[: places[0]] + new + tokens[places[0] + len(old) :]


def _tokens(text: str) -> list[str]:
    return [token for token in _TOKEN.findall(text) if token[0] != "#"]


def _places(tokens: Sequence[str], part: Sequence[str]) -> list[int]:
    """The numbers of the tokens at which the part stands, at most `MAX_COUNTED`; it may overlap itself."""
    text, wanted = _joined(tokens), _joined(part)  # a search in text takes time in proportion to its length
    places: list[int] = []
    at = text.find(wanted)
    while at >= 0 and len(places) < MAX_COUNTED:
        places.append(text.count("\n", 0, at))
        at = text.find(wanted, at + 1)
    return places


def _joined(tokens: Sequence[str]) -> str:
    return "\n" + "".join(f"{token}\n" for token in tokens)


def _nearest(tokens: Sequence[str], part: Sequence[str]) -> str:
    """What stands nearest to the part: around the longest run of tokens that both have."""
    part, tokens = part[: MAX_COMPARED[0]], tokens[: MAX_COMPARED[1]]
    run = SequenceMatcher(a=part, b=tokens, autojunk=False).find_longest_match()
    if not run.size:
        return "nothing in the text is like it: copy the part that is to be replaced from the parent's text"
    start = max(0, run.b - run.a)
    near = plain(_line(tokens[start : start + len(part)]), length=MAX_SHOWN)
    return f"the nearest part of it is `{near}`: copy what is to be replaced from there"


def _line(tokens: Sequence[str]) -> str:
    """The tokens as a text with blanks where the text form of terms has them."""
    parts: list[str] = []
    for number, token in enumerate(tokens):
        left = tokens[number - 1] if number else "("
        apart = left == "," or (bool(_WORD.match(token)) and (left == ")" or bool(_WORD.match(left))))
        bound = token == "=" and number > 1 and tokens[number - 2] == "let"
        parts.append(" = " if bound else f" {token}" if apart else token)
    return "".join(parts)
