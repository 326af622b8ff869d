"""The migrations make what the tables say, and carry an older ledger along."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import MetaData, create_engine, inspect, text

from archloom.db import schema
from archloom.db.engine import connect, parse_location
from archloom.db.records import Campaign, Protocol
from archloom.db.store import Store
from archloom.db.tables import Table
from archloom.errors import EnvironmentProblem

LATER = """
import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    with op.batch_alter_table("notes") as notes:
        notes.add_column(sa.Column("mood", sa.Text()))
"""


def test_migrations_make_exactly_the_tables(location: str) -> None:
    Store.open(location, create=True).close()
    engine = connect(parse_location(location))
    with engine.connect() as connection:
        context = MigrationContext.configure(connection)
        assert compare_metadata(context, Table.metadata) == []
        # The comparison sees something at all:
        assert compare_metadata(context, MetaData()) != []
    engine.dispose()


def test_migrations_name_every_key_as_the_tables_do(tmp_path: Path) -> None:
    Store.open(tmp_path / "migrated.db", create=True).close()
    migrated = connect(parse_location(tmp_path / "migrated.db"))
    declared = create_engine(f"sqlite:///{tmp_path / 'declared.db'}")
    Table.metadata.create_all(declared)
    for table in Table.metadata.tables:
        for read in ("get_pk_constraint", "get_foreign_keys", "get_unique_constraints", "get_indexes"):
            of_migrated, of_declared = (getattr(inspect(engine), read)(table) for engine in (migrated, declared))
            by_name = lambda keys: sorted(keys, key=str) if isinstance(keys, list) else keys  # noqa: E731
            assert by_name(of_migrated) == by_name(of_declared)
    migrated.dispose()
    declared.dispose()


def test_newest_revision_is_the_one_written_down() -> None:
    config = Config()
    config.set_main_option("script_location", str(schema.MIGRATIONS))
    assert ScriptDirectory.from_config(config).get_heads() == [schema.NEWEST]


def test_older_schema_is_migrated_and_newer_one_refused(
    location: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    protocol: Protocol,
    make_campaign: Callable[..., Campaign],
) -> None:
    with Store.open(location, create=True) as store:
        store.create_campaign(make_campaign("kept"), protocol=protocol)
    later = shutil.copytree(schema.MIGRATIONS, tmp_path / "100%" / "migrations")
    (later / "versions" / "0003_mood.py").write_text(LATER)
    with monkeypatch.context() as newer:
        newer.setattr(schema, "MIGRATIONS", later)
        newer.setattr(schema, "NEWEST", "0003")
        with Store.open(location) as store:
            assert store.query("SELECT mood FROM notes") == (("mood",), [])
            assert [campaign.name for campaign in store.campaigns()] == ["kept"]
    with pytest.raises(EnvironmentProblem, match=r"schema 0003, newer.*upgrade"):
        Store.open(location)


OLD_CANDIDATE = """INSERT INTO candidates (campaign_id, id, term, origin, "index") VALUES (1, 'a', 'x', 'zoo', 0)"""
OLD_CALLS = """
INSERT INTO language_model_calls
    (campaign_id, at, model, request, response, prompt_tokens, completion_tokens, seconds)
VALUES (1, '2026-01-01', 'm', '{}', 'yes', 3, 4, 0.5), (1, '2026-01-01', 'm', '{}', 'no', 3, 4, 0.5)
"""


def test_candidates_and_calls_of_the_first_schema_are_kept(
    location: str,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    protocol: Protocol,
    make_campaign: Callable[..., Campaign],
) -> None:
    first = shutil.copytree(schema.MIGRATIONS, tmp_path / "migrations")
    (first / "versions" / "0002_laboratory.py").unlink()
    with monkeypatch.context() as older:
        older.setattr(schema, "MIGRATIONS", first)
        older.setattr(schema, "NEWEST", "0001")
        with Store.open(location, create=True) as store:
            store.create_campaign(make_campaign("kept"), protocol=protocol)
    engine = connect(parse_location(location))
    with engine.begin() as connection:
        connection.execute(text(OLD_CANDIDATE))
        connection.execute(text(OLD_CALLS))
    engine.dispose()
    with Store.open(location) as store:
        assert [(call.response, call.cost, call.completion_tokens) for call in store.calls("kept")] == [
            ("yes", 0, 4),
            ("no", 0, 4),
        ]
        (candidate,) = store.candidates("kept")
        assert (candidate.term, candidate.author, candidate.predictions, candidate.cites) == ("x", None, (), ())
        assert store.lessons("kept") == ()


def test_migration_that_fails_leaves_the_older_schema(
    location: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Store.open(location, create=True).close()
    later = shutil.copytree(schema.MIGRATIONS, tmp_path / "migrations")
    (later / "versions" / "0003_mood.py").write_text(LATER + "    raise RuntimeError('half way')\n")
    with monkeypatch.context() as newer:
        newer.setattr(schema, "MIGRATIONS", later)
        newer.setattr(schema, "NEWEST", "0003")
        with pytest.raises(RuntimeError, match="half way"):
            Store.open(location)
    with Store.open(location) as store:
        assert "mood" not in store.query("SELECT * FROM notes")[0]
