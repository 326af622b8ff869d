"""The catalogue of seed systems: what each adds to the project, where it lands, and whether a term can express it yet.

`catalogue.tsv` holds one row a system. Whether a row is expressed is never written down: it is looked up in the zoo and
in the table of operations as they are.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import StrEnum
from functools import cache
from importlib.resources import files

from archloom.errors import ConfigError
from archloom.search_space import zoo
from archloom.search_space.operations import OPERATIONS

KINDS = {
    "S": "search method",
    "M": "sequence mixer",
    "V": "two-dimensional mixer",
    "B": "block or stack",
    "T": "training, transfer or scale-up",
    "E": "evaluation",
    "I": "inference or hardware cost",
    "K": "knowledge only",
}
TERMS = ("M", "B")
"""Kinds that a term of one-dimensional sequences expresses."""
WIDER = (*TERMS, "S", "V")

PLACES = ("zoo", "operation", "task", "command", "arm", "training", "metric", "kernel", "knowledge")
"""What a system lands as: `zoo:kda`, `operation:conv`, `task:mqar`, ..., or `knowledge` for proposers to read."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """A seed system. `kinds` are letters of `KINDS`, `lands` places as `PLACES` says."""

    number: int
    name: str
    kinds: str
    adds: str
    lands: tuple[str, ...]


class State(StrEnum):
    EXPRESSED = "yes"
    PARTLY = "in part"
    MISSING = "no"
    ELSEWHERE = "not a term"


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """The row's places in the zoo and among the operations: those that are there and those still to come."""

    found: tuple[str, ...]
    missing: tuple[str, ...]

    @property
    def state(self) -> State:
        match bool(self.found), bool(self.missing):
            case True, False:
                return State.EXPRESSED
            case True, True:
                return State.PARTLY
            case False, True:
                return State.MISSING
            case _:
                return State.ELSEWHERE


@cache
def rows() -> tuple[Row, ...]:
    """All rows in their order."""
    _, *lines = files("archloom.search_space").joinpath("catalogue.tsv").read_text(encoding="utf-8").splitlines()
    return tuple(_row(line.split("\t")) for line in lines)


def _row(cells: list[str]) -> Row:
    number, name, kinds, adds, lands = cells
    return Row(number=int(number), name=name, kinds=kinds, adds=adds, lands=tuple(lands.split()))


def row(number: int) -> Row:
    """One row; ConfigError if there is no such number."""
    if not 1 <= number <= len(rows()):
        raise ConfigError(f"the catalogue has no row {number}; its rows are 1 to {len(rows())}")
    return rows()[number - 1]


def of_kinds(kinds: Iterable[str]) -> tuple[Row, ...]:
    """The rows that have any of these kinds."""
    wanted = set(kinds)
    return tuple(each for each in rows() if wanted & set(each.kinds))


def expressed(of: Row) -> Standing:
    """Which of a row's places in the algebra are there: zoo entries that load, operations of the table."""
    places = [place for place in of.lands if place.partition(":")[0] in _THERE]
    found = tuple(place for place in places if _is_there(place))
    return Standing(found=found, missing=tuple(place for place in places if place not in found))


def headed(catalogue: str) -> tuple[int, ...]:
    """The row numbers in the `# catalogue:` line of a zoo entry: `3`, `3, 118`, or none for `-`."""
    return tuple(int(part) for part in catalogue.replace(",", " ").split() if part != "-")


def _is_there(place: str) -> bool:
    kind, _, name = place.partition(":")
    return _THERE[kind](name)


def _loads(name: str) -> bool:
    return name in zoo.names() and zoo.load(name) is not None


_THERE: dict[str, Callable[[str], bool]] = {"zoo": _loads, "operation": lambda name: name in OPERATIONS}
