"""The equation of an operation as a template, parsed once.

A template says what an operation computes of its arguments `{0}`, `{1}`, ... at their indices: `{0}_t` is a token's
entry, `{0}_{ts}` a pair's. Its conventions, which operations to come should follow too:

- one part is the value; a part `G = ...`, set off by a comma or semicolon and `\\;`, defines a letter that others use;
- the letters of `WEIGHTS` are weights, in an operation that owns some;
- what a parameter gives stands as the first letter of its name (`w` for `width`) or as `SPOKEN` says, or as
  `{width}`;
- a digit in braces that is a whole exponent, subscript or part of a fraction is a number and no argument;
- a template without any index acts entry by entry.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cache

from archloom.search_space.equations.pieces import Local, Mark, Setting, Slot, Weight
from archloom.search_space.operations import Operation

WEIGHTS = (*"WUMEwuabc", r"\mu", r"\gamma", r"\lambda", r"\delta", r"\theta", r"\omega", r"\alpha", r"\kappa", r"\eta")
SPOKEN = {
    **dict.fromkeys(("times", "count", "one_in", "prefix", "stride", "taps", "window"), "n"),
    **dict.fromkeys(("size", "span"), "b"),
    "active": "k",
    "activation": r"\phi",
    "limit": "c",
}
"""Parameters that templates write by another sign than the first letter of their name."""


@dataclass(frozen=True, slots=True)
class Template:
    """The value of an operation, the letters it defines first, and the parameters that its equation does not show."""

    value: tuple[Mark, ...]
    definitions: tuple[tuple[Local, tuple[Mark, ...]], ...]
    unsaid: tuple[str, ...]
    entrywise: bool

    def indices(self, argument: int) -> list[str]:
        """The indices at which an argument occurs."""
        parts = (self.value, *(marks for _, marks in self.definitions))
        return [mark.index for marks in parts for mark in marks if isinstance(mark, Slot) and mark.argument == argument]


INDEX = r"(?:_(?:\{([^{}]*)\}|(\\[A-Za-z]+|\w)))?"
_PART = re.compile(r"\s*[,;]\s*(?:\\;|\\quad|\\qquad)\s*")
_DEFINITION = re.compile(rf"(\\?[A-Za-z]+){INDEX} = (.*)", re.DOTALL)
_BOUND = re.compile(r"\\(?:sum|prod|max|min)_\{?\s*([A-Za-z])")
_FIXED_GROUP = re.compile(r"(?:[\^_]|frac|frac\{[^{}]*\})$")
OWN_INDEX = re.compile(r"_(?:t\b|\{[^{}]*[ts][^{}]*\}|\\tau)")


@cache
def template(operation: Operation) -> Template:
    """The parsed equation of an operation."""
    parts = _PART.split(operation.equation)
    matches = [_DEFINITION.fullmatch(part) for part in parts]
    values = [part for part, match in zip(parts, matches, strict=True) if match is None]
    if values:
        value = ", ".join(values)
    else:
        *matches, last = matches
        assert last is not None
        value = last[4]
    found = [(Local(match[1], match[2] or match[3] or ""), match[4]) for match in matches if match]
    read = _Reader(operation, frozenset(local.letter for local, _ in found))
    return Template(
        value=read.marks(value),
        definitions=tuple((local, read.marks(body)) for local, body in found),
        unsaid=tuple(each.name for each in operation.parameters if each.name not in read.said),
        entrywise=not OWN_INDEX.search(operation.equation),
    )


@dataclass(slots=True)
class _Reader:
    """Finds the marks of one operation's template."""

    operation: Operation
    locals_: frozenset[str]
    said: set[str] = field(default_factory=set)  # parameters met so far

    @property
    def signs(self) -> dict[str, str]:
        """The parameters by the sign that stands for each."""
        return {SPOKEN.get(each.name, each.name[0]): each.name for each in self.operation.parameters}

    def marks(self, text: str) -> tuple[Mark, ...]:
        found, at = list[Mark](), 0
        for match in self._pattern(text).finditer(text):
            mark = self._mark(match, before=text[: match.start()])
            if mark is not None:
                found += [text[at : match.start()], mark] if match.start() > at else [mark]
                at = match.end()
        return (*found, text[at:]) if at < len(text) else tuple(found)

    def _pattern(self, text: str) -> re.Pattern[str]:
        bound = set(_BOUND.findall(text))
        settings = set(self.signs) - bound - self.locals_
        weights = set(WEIGHTS) - bound - self.locals_ - settings if self.operation.parametric else set()
        return re.compile(
            rf"\{{(?P<slot>\d|[a-z]\w*)\}}{_named_index('slot')}"
            rf"|{_alone(self.locals_, 'local')}{_named_index('local')}"
            rf"|{_alone(weights, 'weight')}{_named_index('weight')}"
            rf"|{_alone(settings, 'setting')}"
        )

    def _mark(self, match: re.Match[str], *, before: str) -> Mark | None:
        if sign := match["setting"]:
            self.said.add(self.signs[sign])
            return Setting(self.signs[sign])
        kind = next(name for name in ("slot", "local", "weight") if match[name])
        index = match[f"{kind}_group"] or match[f"{kind}_letter"] or ""
        if kind == "local":
            return Local(match[kind], index)
        if kind == "weight":
            return Weight(match[kind], index, 0)
        name = match["slot"]
        if name in self.operation.position:
            self.said.add(name)
            return Setting(name)
        fixed = not name.isdigit() or int(name) >= self.operation.arity or _FIXED_GROUP.search(before)
        return None if fixed else Slot(int(name), index)


def _named_index(kind: str) -> str:
    return rf"(?:_(?:\{{(?P<{kind}_group>[^{{}}]*)\}}|(?P<{kind}_letter>\\[A-Za-z]+|\w)))?"


def _alone(signs: Iterable[str], name: str) -> str:
    """A pattern for one of these letters or commands where it is no part of a word."""
    options = "|".join(re.escape(sign) for sign in sorted(signs))
    return rf"(?<![\\A-Za-z])(?P<{name}>{options or '(?!)'})(?![A-Za-z])"
