"""Bring a database to the schema that this archloom speaks. Alembic is imported only when there is something to do."""

from pathlib import Path

from sqlalchemy import URL, Connection, Engine, inspect, text

from archloom.db.engine import enable_write_ahead_log, lock_schema, shown, writing
from archloom.errors import EnvironmentProblem

MIGRATIONS = Path(__file__).parent / "migrations"
NEWEST = "0002"
"""The newest revision in `MIGRATIONS`, written down so that opening an up-to-date ledger need not read them."""


def prepare(engine: Engine, *, create: bool) -> None:
    """Create the schema in an empty database if `create`, migrate an older one, leave the newest alone.

    `EnvironmentProblem` for an empty database without `create`, for tables that are not ours, and for a newer schema.
    """
    with engine.connect() as connection:
        revision = find_revision(connection, url=engine.url)
    if revision == NEWEST:
        return
    if revision is None and not create:
        raise EnvironmentProblem(
            f"{shown(engine.url)} is empty: `archloom run` makes a ledger there, or name another one"
        )
    enable_write_ahead_log(engine)
    with writing(engine).begin() as connection:
        lock_schema(connection)
        # Another process may have done it while this one waited; the upgrade then finds nothing to do.
        revision = find_revision(connection, url=engine.url)
        _upgrade(connection, revision, url=engine.url)


def find_revision(connection: Connection, *, url: URL) -> str | None:
    """The revision of a ledger, None for an empty database, `EnvironmentProblem` for somebody else's tables."""
    tables = set(inspect(connection).get_table_names())
    if not tables:
        return None
    if not tables >= {"alembic_version", "campaigns", "evaluations"}:
        found = ", ".join(sorted(tables)[:5])
        raise EnvironmentProblem(f"{shown(url)} is not an archloom ledger (it holds {found}): name another database")
    return str(connection.scalar(text("SELECT version_num FROM alembic_version")))


def _upgrade(connection: Connection, revision: str | None, *, url: URL) -> None:
    from alembic import command
    from alembic.config import Config
    from alembic.script import ScriptDirectory

    config = Config(attributes={"connection": connection})
    config.set_main_option("script_location", str(MIGRATIONS).replace("%", "%%"))
    known = {script.revision for script in ScriptDirectory.from_config(config).walk_revisions()}
    if revision is not None and revision not in known:
        raise EnvironmentProblem(
            f"{shown(url)} has schema {revision}, newer than this archloom knows ({NEWEST}): upgrade archloom"
        )
    command.upgrade(config, "head")
