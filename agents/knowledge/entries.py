"""Entries: what each known system teaches a designer of mixers.

An entry is a table of a TOML file, `[[entry]]` with the fields of `Entry`; a line break within a text is a space. The
catalogue's entries lie beside this module, each in the file of the first kind of its row. Equations are plain text in
these letters: q, k, v are a token's query, key and value, S is a state [K, V], beta a rate in (0, 1) or (0, 2), decay
what is kept of a state, x a token of the stream, o an output, t the present and s an earlier position.
"""

import shlex
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from difflib import get_close_matches
from functools import cache
from importlib.resources import files
from typing import Any

from archloom.errors import ConfigError, NotFoundError
from archloom.search_space import zoo
from archloom.search_space.catalogue import KINDS
from archloom.search_space.operations import OPERATIONS

FILES = {
    "M": "mixers.toml",
    "B": "blocks.toml",
    "V": "images.toml",
    "S": "searches.toml",
    "E": "evaluations.toml",
    "T": "training.toml",
    "I": "inference.toml",
    "K": "background.toml",
}
"""Where the entries of rows of each first kind lie."""

MOST_CHARACTERS = 2000
"""Of an entry's texts together: what a prompt can afford to quote."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """What a system teaches. `row` is its number in the catalogue, None if a person added it; `kinds` as `KINDS` says.

    `mechanism` says how it works, `equation` the same in letters, `strengths` and `weaknesses` what it is good and bad
    at with the figures of its source's abstract, `use` what a searcher of mixers can take from it. Each may be empty
    but the mechanism. `operations` are those that express it, `zoo` names its systems there.
    """

    row: int | None
    name: str
    kinds: str
    title: str
    year: int
    mechanism: str
    equation: str = ""
    strengths: str = ""
    weaknesses: str = ""
    use: str = ""
    operations: tuple[str, ...] = ()
    zoo: tuple[str, ...] = ()

    @property
    def prose(self) -> str:
        """All that it says in sentences."""
        return " ".join(filter(None, (self.mechanism, self.strengths, self.weaknesses, self.use)))


_TEXTS = ("name", "kinds", "title", "mechanism", "equation", "strengths", "weaknesses", "use")
_NEEDED = ("name", "title", "mechanism")
_LISTS = {
    "operations": (tuple(OPERATIONS), "archloom zoo --operations lists what there is"),
    "zoo": (zoo.names(), "archloom zoo lists what there is"),
}
"""Fields that are lists of names, the names there are, and how to see them."""


@cache
def entries() -> tuple[Entry, ...]:
    """The entries of the catalogue, one for each of its rows, in their order."""
    folder = files("archloom.agents.knowledge")
    found = [entry for name in FILES.values() for entry in parse(folder.joinpath(name).read_text("utf-8"), where=name)]
    return tuple(sorted(found, key=lambda entry: entry.row or 0))


def parse(text: str, *, where: str) -> tuple[Entry, ...]:
    """The entries of a TOML text; `where` names it in errors.

    Errors: `ConfigError` for a text that is no TOML, a field that is unknown, missing or of the wrong kind, a name that
    neither the algebra nor the zoo has, and an entry that is too long.
    """
    try:
        document = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{where}: not TOML: {error}") from None
    tables = document.pop("entry", None)
    if document or not isinstance(tables, list) or not all(isinstance(table, dict) for table in tables):
        raise ConfigError(f"{where}: an entry is a table under [[entry]] and nothing stands beside it")
    return tuple(_entry(table, where=f"{where}, entry {number}") for number, table in enumerate(tables, 1))


def _entry(table: Mapping[str, Any], *, where: str) -> Entry:
    known = [field.name for field in fields(Entry)]
    for field in table:
        if field not in known:
            raise ConfigError(f"{where}: there is no field `{field}`; {_near(field, known) or ', '.join(known)}")
    texts = {field: _text(table.get(field, ""), where=f"{where}: {field}") for field in _TEXTS}
    if missing := [field for field in _NEEDED if not texts[field]]:
        raise ConfigError(
            f"{where}: {' and '.join(missing)} missing or empty; an entry needs {', '.join(_NEEDED)}, year"
        )
    if not set(texts["kinds"]) <= set(KINDS):
        raise ConfigError(f"{where}: kinds is {texts['kinds']!r} and should be letters of {''.join(KINDS)}")
    if (length := sum(map(len, texts.values()))) > MOST_CHARACTERS:
        raise ConfigError(f"{where}: {length} characters; an entry has {MOST_CHARACTERS} at most, shorten its texts")
    row, year = (_number(table.get(field), where=f"{where}: {field}") for field in ("row", "year"))
    if year is None:
        raise ConfigError(f"{where}: year missing; it is the year of the source")
    return Entry(
        row=row,
        name=texts["name"],
        kinds=texts["kinds"],
        title=texts["title"],
        year=year,
        mechanism=texts["mechanism"],
        equation=texts["equation"],
        strengths=texts["strengths"],
        weaknesses=texts["weaknesses"],
        use=texts["use"],
        operations=_names("operations", table, where=where),
        zoo=_names("zoo", table, where=where),
    )


def _text(value: object, *, where: str) -> str:
    if not isinstance(value, str):
        raise ConfigError(f"{where} is {value!r} and should be a text in quotes")
    return " ".join(value.split())


def _number(value: object, *, where: str) -> int | None:
    if value is not None and type(value) is not int:
        raise ConfigError(f"{where} is {value!r} and should be a whole number")
    return value


def _names(field: str, table: Mapping[str, Any], *, where: str) -> tuple[str, ...]:
    value = table.get(field, [])
    known, remedy = _LISTS[field]
    if not isinstance(value, list) or not all(isinstance(name, str) for name in value):
        raise ConfigError(f"{where}: {field} is {value!r} and should be a list of names in quotes")
    for name in value:
        if name not in known:
            raise ConfigError(f"{where}: {field}: there is no `{name}`; {_near(name, known) or remedy}")
    return tuple(value)


def _near(name: str, known: Sequence[str]) -> str:
    close = get_close_matches(name, known, n=3)
    return f"did you mean {' or '.join(close)}?" if close else ""


def find(asked: str, *, among: Sequence[Entry]) -> Entry:
    """The entry with this row, this name, or this system of the zoo; case, spaces, - and _ do not matter.

    Errors: `NotFoundError` with the names that are near.
    """
    wanted = _plain(asked)
    for names in (_row, _named, _systems):
        if found := [entry for entry in among if wanted in names(entry)]:
            return found[0]
    if wanted.isdecimal():
        raise NotFoundError(f"the knowledge base has no row {asked}; its rows are 1 to {len(entries())}")
    if asked in zoo.names():
        raise NotFoundError(f"no entry tells of `{asked}`, a system of the zoo only\n  → archloom show --zoo {asked}")
    known = {part: name for entry in among for name in (entry.name, *entry.zoo) for part in _parts(name)}
    close = dict.fromkeys(known[part] for part in get_close_matches(wanted, known, n=3))
    hint = f"; did you mean {' or '.join(close)}?" if close else ""
    raise NotFoundError(
        f"the knowledge base has no `{asked}`{hint}\n  → archloom knowledge search {shlex.quote(asked)}"
    )


def _row(entry: Entry) -> tuple[str, ...]:
    return () if entry.row is None else (str(entry.row),)


def _named(entry: Entry) -> tuple[str, ...]:
    return (_plain(entry.name), _plain(entry.title))


def _systems(entry: Entry) -> tuple[str, ...]:
    return tuple(map(_plain, entry.zoo))


def _parts(name: str) -> tuple[str, str]:
    """What a name may be asked by when it is misspelt: the whole of it, or its first word."""
    plain = _plain(name)
    return plain.split(" ")[0], plain


def _plain(name: str) -> str:
    return " ".join("".join(letter if letter.isalnum() else " " for letter in name.casefold()).split())
