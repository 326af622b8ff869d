"""A folder of a person's own entries of the knowledge base, beside those of the catalogue.

Every TOML file of the folder is read, by name. A file is checked before it is taken in, and again whenever it is read,
since a person may have edited it there.
"""

import os
from collections.abc import Sequence
from pathlib import Path

from archloom.agents.knowledge.entries import Entry, entries, parse
from archloom.errors import ConfigError, EnvironmentProblem, NotFoundError

VARIABLE = "ARCHLOOM_KNOWLEDGE"
"""The environment variable that names the folder."""


def everything(folder: Path | None) -> tuple[Entry, ...]:
    """The entries of the catalogue and, after them, those of the folder.

    Errors: `NotFoundError` if the folder is not there, `ConfigError` for a file in it that is wrong.
    """
    return entries() if folder is None else (*entries(), *own(folder))


def own(folder: Path) -> tuple[Entry, ...]:
    """The entries of a folder. Errors: as for `everything`."""
    if not folder.is_dir():
        raise NotFoundError(
            f"there is no folder {folder}\n  → archloom knowledge add FILE --knowledge {folder} makes it"
        )
    found: tuple[Entry, ...] = ()
    for path in sorted(folder.glob("*.toml")):
        found = (*found, *_checked(_text(path), where=path, beside=(*entries(), *found)))
    return found


def add(file: Path, *, to: Path) -> tuple[Entry, ...]:
    """Copy a file of entries into a folder, which is made if need be. Returns the entries.

    Errors: `ConfigError` if the file holds no right entries, one of another's name, or if the folder has a file of its
    name; `EnvironmentProblem` if the folder cannot be written.
    """
    target = to / f"{file.stem}.toml"
    if target.exists():
        raise ConfigError(f"{target} is there already\n  → edit it there, or give {file} another name")
    text = _text(file)
    added = _checked(text, where=file, beside=(*entries(), *(own(to) if to.exists() else ())))
    try:
        to.mkdir(parents=True, exist_ok=True)
        unfinished = target.with_suffix(".part")
        unfinished.write_text(text, encoding="utf-8")
        os.replace(unfinished, target)
    except OSError as error:
        raise EnvironmentProblem(
            f"{target} cannot be written: {error.strerror}\n  → choose another --knowledge"
        ) from None
    return added


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: not UTF-8 at byte {error.start}; entries are TOML, which is text") from None
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}") from None


def _checked(text: str, *, where: Path, beside: Sequence[Entry]) -> tuple[Entry, ...]:
    """The entries of a file, none of which has a row, or a name that another has."""
    found = parse(text, where=str(where))
    taken = {entry.name.casefold() for entry in beside}
    for entry in found:
        if entry.row is not None:
            raise ConfigError(f"{where}: row = {entry.row}: rows number the catalogue's own entries; leave it out")
        if entry.name.casefold() in taken:
            raise ConfigError(f"{where}: the knowledge base has a `{entry.name}` already; choose another name")
        taken.add(entry.name.casefold())
    return found
