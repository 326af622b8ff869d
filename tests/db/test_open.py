"""Where a ledger can be opened and what is said where it cannot."""

import contextlib
import os
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import text

from archloom.db.engine import parse_location, shown
from archloom.db.store import Store
from archloom.errors import ArchloomError, ConfigError, EnvironmentProblem, NotFoundError


def make(path: Path) -> Path:
    Store.open(path, create=True).close()
    return path


@contextlib.contextmanager
def without_privileges() -> Iterator[None]:
    """File modes bind everybody but root: become nobody for a while."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


def test_missing_file_is_not_found_and_not_made(tmp_path: Path) -> None:
    path = tmp_path / "none.db"
    for location in (path, str(path), f"sqlite:///{path}"):
        with pytest.raises(NotFoundError, match=r"none\.db.*archloom run"):
            Store.open(location)
    assert not path.exists()


def test_create_makes_the_folders_above_and_is_repeatable(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b c%20" / "ledger?.db"
    with Store.open(path, create=True) as store:
        store.close()
    with Store.open(path, create=True) as store:
        assert store.campaigns() == ()
        assert store.query("SELECT count(*) FROM campaigns")[1] == [(0,)]
    assert {found.name for found in path.parent.iterdir()} == {"ledger?.db"}


def test_path_relative_to_the_working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make(tmp_path / "here.db")
    monkeypatch.chdir(tmp_path)
    store = Store.open("here.db")
    monkeypatch.chdir("/")
    assert store.campaigns() == ()
    store.close()


@pytest.mark.parametrize("create", [False, True])
def test_what_is_no_ledger_is_refused_and_left_alone(tmp_path: Path, create: bool) -> None:
    garbage = tmp_path / "garbage.db"
    garbage.write_bytes(bytes(range(256)) * 64)
    foreign = tmp_path / "foreign.db"
    with contextlib.closing(sqlite3.connect(foreign)) as connection:
        connection.execute("CREATE TABLE cats (name TEXT)")
    for path, reason in ((garbage, "not a database"), (foreign, "cats"), (tmp_path, "is a folder")):
        before = path.read_bytes() if path.is_file() else None
        with pytest.raises(EnvironmentProblem, match=reason) as refused:
            Store.open(path, create=create)
        assert path.name in str(refused.value)
        assert before is None or path.read_bytes() == before


def test_truncated_ledger_is_refused(tmp_path: Path) -> None:
    path = make(tmp_path / "cut.db")
    path.write_bytes(path.read_bytes()[:6000])
    with pytest.raises(EnvironmentProblem, match=r"cut\.db"):
        Store.open(path)


def test_empty_file_becomes_a_ledger_only_on_request(tmp_path: Path) -> None:
    path = tmp_path / "empty.db"
    path.touch()
    with pytest.raises(EnvironmentProblem, match="is empty"):
        Store.open(path)
    with Store.open(path, create=True) as store:
        assert store.campaigns() == ()


def test_file_under_a_file_is_not_found(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for create in (False, True):
        with pytest.raises(ArchloomError, match=r"ledger\.db"):
            Store.open(tmp_path / "file" / "ledger.db", create=create)


def test_unreadable_file_and_folder() -> None:
    # Not in tmp_path, whose own folders nobody else may enter.
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        path = make(folder / "ledger.db")
        path.chmod(0)
        folder.chmod(0o777)
        with without_privileges(), pytest.raises(EnvironmentProblem, match=r"ledger\.db cannot be used.*writable"):
            Store.open(path)
        folder.chmod(0)
        with without_privileges(), pytest.raises(EnvironmentProblem, match=r"ledger\.db cannot be used.*permissions"):
            Store.open(path)
        folder.chmod(0o700)


def test_sqlite_settings(tmp_path: Path) -> None:
    with Store.open(tmp_path / "ledger.db", create=True) as store:
        settings = {
            name: store._read(lambda session, name=name: session.scalar(text(f"PRAGMA {name}")))
            for name in ("journal_mode", "synchronous", "busy_timeout", "foreign_keys")
        }
    assert settings == {"journal_mode": "wal", "synchronous": 1, "busy_timeout": 30000, "foreign_keys": 1}


@pytest.mark.parametrize(
    ("location", "parsed"),
    [
        ("postgresql://u:secret@h:5433/d", "postgresql+psycopg://u:***@h:5433/d"),
        ("postgres://h/d", "postgresql+psycopg://h/d"),
        ("postgresql+psycopg://h/d", "postgresql+psycopg://h/d"),
        ("sqlite:////a/b.db", "/a/b.db"),
        ("/a/b.db", "/a/b.db"),
    ],
)
def test_locations_and_how_they_are_shown(location: str, parsed: str) -> None:
    assert shown(parse_location(location)) == parsed


@pytest.mark.parametrize(
    "location", ["mysql://h/d", "sqlite://", "sqlite:///:memory:", "http://[", "postgresql+x://h/d"]
)
def test_other_locations_are_a_usage_error(location: str) -> None:
    with pytest.raises(ConfigError):
        Store.open(location)


def test_processes_may_create_one_ledger_together(location: str) -> None:
    code = "import sys; from archloom.db.store import Store; Store.open(sys.argv[1], create=True).close()"
    started = [subprocess.Popen([sys.executable, "-c", code, location], stderr=subprocess.PIPE) for _ in range(4)]
    ended = [process.communicate(timeout=120)[1].decode() for process in started]
    assert ended == [""] * 4
    with Store.open(location) as store:
        assert store.campaigns() == ()


def test_neither_torch_nor_alembic_is_imported_on_the_way() -> None:
    code = (
        "import sys; import archloom.db.store, archloom.db.queries, archloom.db.statistics;"
        "print([name for name in ('torch', 'alembic', 'psycopg', 'archloom.agents') if name in sys.modules])"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ended.stdout.strip() == "[]"
