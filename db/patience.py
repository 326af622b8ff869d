"""Waiting for a database that is out of reach: locked by another process, its disk full, its server restarting.

A transaction that could not be made is made again, ever less often, until the patience is spent. It may have been made
for all that: a connection can break after the database had written and before it said so. Who asks for a transaction
that must not be made twice therefore looks first, on the second try, whether it was.
"""

import sqlite3
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError

from archloom.errors import EnvironmentProblem

FIRST_WAIT = 0.1
LONGEST_WAIT = 2.0
"""Seconds between tries; each wait is twice the one before."""

PASSING = frozenset(
    {
        sqlite3.SQLITE_BUSY,
        sqlite3.SQLITE_LOCKED,
        sqlite3.SQLITE_NOMEM,
        sqlite3.SQLITE_IOERR,
        sqlite3.SQLITE_FULL,
        sqlite3.SQLITE_CANTOPEN,
        sqlite3.SQLITE_PROTOCOL,
    }
)
"""What SQLite says of a file that may be usable later. A file that is damaged or may not be written is not."""

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Patience:
    """How long a database is waited for. `pause(seconds)` spends the time between tries, and may raise to give up."""

    seconds: float = 0.0
    pause: Callable[[float], None] = time.sleep


def insist(attempt: Callable[[bool], T], *, patience: Patience, on: str) -> T:
    """What `attempt(again)` returns; it is called again while the database `on` is out of reach.

    `EnvironmentProblem` when the patience is spent; without patience, or for another fault, what `attempt` raised.
    """
    began, wait, again = time.monotonic(), FIRST_WAIT, False
    while True:
        try:
            return attempt(again)
        except DBAPIError as problem:
            if not patience.seconds or not is_passing(problem):
                raise
            left = began + patience.seconds - time.monotonic()
            if left <= 0:
                raise EnvironmentProblem(
                    f"the ledger {on} was out of reach for {patience.seconds:g} s and is given up: {problem.orig}. "
                    "What it holds is kept; when it can be reached again, `archloom resume` goes on"
                ) from problem
        patience.pause(min(wait, left))
        wait, again = min(2 * wait, LONGEST_WAIT), True


def is_passing(problem: DBAPIError) -> bool:
    """Whether the database may answer later, of itself."""
    if isinstance(problem.orig, sqlite3.Error):
        return (getattr(problem.orig, "sqlite_errorcode", 0) & 0xFF) in PASSING
    return problem.connection_invalidated or isinstance(problem, OperationalError | InterfaceError)
