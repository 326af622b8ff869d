"""Options that many commands share, and the store they lead to."""

import os
import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from archloom.errors import NotFoundError

if TYPE_CHECKING:
    from archloom.db.store import Store

STORE_VARIABLE = "ARCHLOOM_STORE"
DEBUG = "archloom.debug"


def _remember_debug(context: typer.Context, value: bool) -> None:
    if value:
        context.meta[DEBUG] = True


StoreOption = Annotated[
    str | None,
    typer.Option(
        "--store",
        help=f"Path or URL of the store.  [default: {STORE_VARIABLE}, else the only store in the working directory]",
        show_default=False,
    ),
]
CampaignOption = Annotated[
    str | None,
    typer.Option("--campaign", help="Name of the campaign.  [default: the latest]", show_default=False),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]
DebugOption = Annotated[
    bool,
    typer.Option("--debug", help="Show the traceback of an error.", callback=_remember_debug, is_eager=True),
]


class Diff(Enum):
    """How `show` tells what makes a known system of a term."""

    LINES = "lines"
    FULL = "full"
    NONE = "none"


CONTEXT = 4096
"""Tokens, as `archloom.search_space.complexity.CONTEXT`, which would have to be imported for `--help`."""
ContextOption = Annotated[
    int, typer.Option("--context", min=1, max=2**24, help="Tokens at which parameters and decode state are counted.")
]
SetOption = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Replace a value of the file, as in budget.candidates=20."),
]


@contextmanager
def opened(location: str | None) -> Iterator["Store"]:
    """The store that `--store`, the environment or the working directory names."""
    from archloom.db.store import Store

    with Store.open(locate(location)) as store:
        yield store


def locate(store: str | None) -> str:
    """The location that `--store`, the environment or the working directory names."""
    return store or find_store()


def find_store() -> str:
    """The store that is meant when none is given. Errors: `NotFoundError` if that is none or several."""
    if named := os.environ.get(STORE_VARIABLE):
        return named
    stores = [path.name for path in sorted(Path.cwd().glob("*.db")) if _is_store(path)]
    if len(stores) == 1:
        return stores[0]
    if stores:
        raise NotFoundError(f"several stores in {Path.cwd()}: {', '.join(stores)}\n  → add --store {stores[0]}")
    raise NotFoundError(f"no store in {Path.cwd()}\n  → archloom run examples/quickstart.toml, or add --store PATH")


def _is_store(path: Path) -> bool:
    import sqlite3
    from contextlib import closing

    try:
        with closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)) as connection:
            query = "SELECT count(*) FROM sqlite_master WHERE name IN ('campaigns', 'evaluations')"
            return bool(connection.execute(query).fetchone()[0] == 2)
    except sqlite3.Error:
        return False


def hint(location: str) -> str:
    """What to append to a command so that it finds this store; nothing if it does so by itself."""
    try:
        return "" if find_store() == location else f" --store {shlex.quote(location)}"
    except NotFoundError:
        return f" --store {shlex.quote(location)}"
