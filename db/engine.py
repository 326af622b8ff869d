"""From a path or a URL to an engine. All that differs between SQLite and PostgreSQL is in this file.

SQLite runs with a write-ahead log: readers never wait, and writers queue up for `BUSY_SECONDS`. A transaction that will
write takes the write lock when it begins; one that read first and wrote later would be refused at once, without
waiting, whenever another process had written in between.
"""

import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import URL, Connection, Engine, create_engine, event, make_url, text
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import ArgumentError, DBAPIError, IntegrityError, OperationalError
from sqlalchemy.orm import Session

from archloom.db.tables import Table
from archloom.errors import ArchloomError, ConfigError, EnvironmentProblem, NotFoundError

BUSY_SECONDS = 30
POSTGRESQL_SCHEMA_LOCK = 0x61_72_63_68
"""Key of the advisory lock under which the schema is created or changed; any constant does."""

Answer = tuple[tuple[str, ...], list[tuple[object, ...]]]


def parse_location(location: str | Path) -> URL:
    """The URL of a path or URL. `ConfigError` for a database that archloom does not speak."""
    if isinstance(location, Path) or "://" not in location:
        return URL.create("sqlite", database=str(Path(location).expanduser().absolute()))
    try:
        url = make_url(location)
    except ArgumentError as problem:
        raise ConfigError(
            f"{location!r} is not a database URL: write postgresql://user@host/name, or a path"
        ) from problem
    match url.drivername:
        case "postgresql" | "postgres" | "postgresql+psycopg":
            return url.set(drivername="postgresql+psycopg")
        case "sqlite" if url.database and url.database != ":memory:":
            return parse_location(Path(url.database))
        case "sqlite":
            raise ConfigError("a ledger outlives its process and cannot be in memory: give the path of a file")
    raise ConfigError(f"no ledger in {url.drivername!r}: give a path (SQLite) or postgresql://user@host/name")


def shown(url: URL) -> str:
    """The location as messages name it: a bare path, or a URL without its password."""
    return str(url.database) if url.get_backend_name() == "sqlite" else url.render_as_string(hide_password=True)


def connect(url: URL, *, busy_seconds: float = BUSY_SECONDS) -> Engine:
    """An engine of which `writing` makes the twin whose transactions hold the write lock from their beginning.

    `busy_seconds` is how long a transaction of SQLite waits for its lock.
    """
    if url.get_backend_name() != "sqlite":
        try:
            return create_engine(url, pool_pre_ping=True)
        except ImportError as problem:
            raise EnvironmentProblem(f"{shown(url)} needs psycopg: pip install 'psycopg[binary]'") from problem
    engine = create_engine(url, connect_args={"timeout": busy_seconds})

    @event.listens_for(engine, "connect")
    def configure(connection: sqlite3.Connection, _: object) -> None:
        connection.isolation_level = None  # the driver opens no transactions of its own: `begin` below does
        for pragma in (f"busy_timeout={round(busy_seconds * 1000)}", "synchronous=NORMAL", "foreign_keys=ON"):
            connection.execute(f"PRAGMA {pragma}").close()

    @event.listens_for(engine, "begin")
    def begin(connection: Connection) -> None:
        connection.exec_driver_sql("BEGIN IMMEDIATE" if connection.get_execution_options().get("writes") else "BEGIN")

    return engine


def writing(engine: Engine) -> Engine:
    """The same engine and pool; what begins on it means to write."""
    return engine.execution_options(writes=True)


def prepare_file(url: URL, *, create: bool) -> None:
    """Refuse a path without a ledger, of which SQLite would silently make an empty file. No-op for PostgreSQL."""
    if url.get_backend_name() != "sqlite":
        return
    path = Path(str(url.database))
    try:
        if path.is_dir():
            raise EnvironmentProblem(
                f"{path} is a folder; a ledger is a file: name one, such as {path / 'archloom.db'}"
            )
        # A file in a folder that may not be entered is told from one that is not there only by its stat.
        if create:
            path.parent.mkdir(parents=True, exist_ok=True)
        else:
            path.stat()
    except (FileNotFoundError, NotADirectoryError) as problem:
        raise NotFoundError(
            f"no ledger at {path}: `archloom run` makes one there, or name one that exists"
        ) from problem
    except OSError as problem:
        raise EnvironmentProblem(
            f"{path} cannot be used ({problem.strerror}): mend its permissions or name another"
        ) from problem


def lock_schema(connection: Connection) -> None:
    """Let one process at a time create or migrate. The write lock of SQLite is held since the transaction began."""
    if connection.dialect.name == "postgresql":
        connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": POSTGRESQL_SCHEMA_LOCK})


def enable_write_ahead_log(engine: Engine) -> None:
    """Lasts: the mode is written in the file."""
    if engine.dialect.name == "sqlite":
        with closing(engine.raw_connection()) as connection, closing(connection.cursor()) as cursor:
            cursor.execute("PRAGMA journal_mode=WAL")


def insert_missing(
    session: Session, table: type[Table], rows: Sequence[Mapping[str, object]], *, unique: Sequence[str]
) -> int:
    """Insert the rows whose `unique` columns are not in the table yet, and count them. Atomic."""
    dialect = postgresql if session.get_bind().dialect.name == "postgresql" else sqlite
    statement: Any = dialect.insert(table).values(list(rows)).on_conflict_do_nothing(index_elements=list(unique))
    return len(session.execute(statement.returning(*table.__table__.primary_key)).all())


def query_read_only(engine: Engine, sql: str) -> Answer:
    """Column names and rows of one SELECT. `ConfigError` for a statement that is wrong or would write."""
    try:
        return _query_sqlite(engine.url, sql) if engine.dialect.name == "sqlite" else _query_postgresql(engine, sql)
    except OperationalError:
        raise  # the server is out of reach
    except (sqlite3.Error, sqlite3.Warning, DBAPIError) as problem:
        reason = problem.orig if isinstance(problem, DBAPIError) else problem
        raise ConfigError(f"{reason}; one SELECT is accepted and nothing else, got {sql!r}") from problem


def _query_sqlite(url: URL, sql: str) -> Answer:
    allowed = {sqlite3.SQLITE_SELECT, sqlite3.SQLITE_READ, sqlite3.SQLITE_FUNCTION, sqlite3.SQLITE_RECURSIVE}
    uri = Path(str(url.database)).as_uri() + "?mode=ro"
    with closing(sqlite3.connect(uri, uri=True, timeout=BUSY_SECONDS)) as connection:
        # Read-only speaks of this file; the authorizer also stops ATTACH and VACUUM INTO, which write elsewhere.
        connection.set_authorizer(lambda action, *_: sqlite3.SQLITE_OK if action in allowed else sqlite3.SQLITE_DENY)
        cursor = connection.execute(sql)
        if cursor.description is None:
            raise sqlite3.ProgrammingError("there is no statement")
        return tuple(column[0] for column in cursor.description), cursor.fetchall()


def _query_postgresql(engine: Engine, sql: str) -> Answer:
    # A server-side cursor takes one query and nothing else, so that no COMMIT can end the read-only transaction.
    options = {"postgresql_readonly": True, "stream_results": True, "no_parameters": True}
    with engine.connect().execution_options(**options) as connection:
        result = connection.exec_driver_sql(sql)
        return tuple(result.keys()), [tuple(row) for row in result]


@contextmanager
def explained(url: URL) -> Iterator[None]:
    """Turn what the database refuses into `EnvironmentProblem`; a broken constraint, our own fault, passes."""
    try:
        yield
    except (ArchloomError, IntegrityError):
        raise
    except DBAPIError as problem:
        remedy = "see that it is an archloom ledger, that file and folder are writable, and that the disk has room"
        if url.get_backend_name() != "sqlite":
            remedy = "see that the server runs, that the database exists, and that user and password are right"
        raise EnvironmentProblem(f"the ledger {shown(url)} cannot be used: {problem.orig}; {remedy}") from problem
