"""Dials: the settings that a kind of proxy task has, their defaults and ranges. No torch here."""

import difflib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from math import inf

from archloom.search_space.patterns import CAUSAL, Pattern

Value = int | float | str


@dataclass(frozen=True, slots=True, kw_only=True)
class Dial:
    """One setting of a kind of task: its type is that of the default; numbers lie in [least, most]."""

    name: str
    default: Value
    about: str
    least: float = -inf
    most: float = inf
    choices: tuple[str, ...] = ()

    def broken(self, value: object) -> str | None:
        """The rule that a value breaks, or None. Whole numbers do where the default is a real one."""
        kind = type(self.default)
        wanted = (int, float) if kind is float else (kind,)
        if not isinstance(value, wanted) or isinstance(value, bool):
            return f"should be of type {kind.__name__}"
        if isinstance(value, str):
            return None if not self.choices or value in self.choices else f"should be one of {', '.join(self.choices)}"
        if self.least <= value <= self.most:
            return None
        return (
            f"should be {f'at least {self.least:g}' if self.most == inf else f'from {self.least:g} to {self.most:g}'}"
        )

    def cast(self, value: Value) -> Value:
        return float(value) if isinstance(self.default, float) else value


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """A kind of proxy task. `vocabulary`, `length` and `batch` are defaults of its record.

    Inputs are symbols, or where `vectors` is set real vectors of `vocabulary` channels. Under a cross pattern the model
    is given a source beside its inputs. `length` counts the longest inputs, in evaluation too.
    """

    about: str
    source: str
    vocabulary: int
    length: int
    batch: int = 64
    dials: tuple[Dial, ...] = ()
    pattern: Pattern = CAUSAL
    vectors: bool = False


def evaluated(sequences: int) -> Dial:
    return Dial(name="evaluation", default=sequences, least=1, about="sequences of the evaluation set")


def ramp(share: float) -> Dial:
    return Dial(
        name="ramp",
        default=share,
        least=0,
        most=1,
        about="share of the steps over which the task grows to its full difficulty; a fixed one inverts rankings",
    )


def faults(kind: Kind, given: Mapping[str, object]) -> Iterator[tuple[str, str | None]]:
    """The settings in `given` that the kind's dials do not allow: the name and the rule, None for an unknown dial."""
    known = {dial.name: dial for dial in kind.dials}
    for name, value in given.items():
        if name not in known:
            yield name, None
        elif rule := known[name].broken(value):
            yield name, rule


class Dials(Mapping[str, Value]):
    """The settings of one task: what its record says, else the kind's defaults."""

    def __init__(self, values: Mapping[str, Value]) -> None:
        self._values = values

    def __getitem__(self, name: str) -> Value:
        return self._values[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def integer(self, name: str) -> int:
        value = self._values[name]
        assert isinstance(value, int), name
        return value

    def number(self, name: str) -> float:
        value = self._values[name]
        assert isinstance(value, float), name
        return value

    def text(self, name: str) -> str:
        value = self._values[name]
        assert isinstance(value, str), name
        return value


def alike(name: str, known: Iterable[str]) -> str:
    """What a mistaken name may have meant, in words."""
    names = sorted(known)
    close = difflib.get_close_matches(name, names, n=1, cutoff=0.6)
    return f"did you mean {close[0]!r}?" if close else f"known here: {', '.join(names)}"
