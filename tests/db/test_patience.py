"""A ledger out of reach is waited for, and a transaction of which nobody knows whether it was made is made once."""

import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime

import pytest
from sqlalchemy import make_url, text

from archloom.db.engine import connect
from archloom.db.patience import LONGEST_WAIT, Patience
from archloom.db.records import CampaignState, EvaluationKey, LanguageModelCall, Measurement, Role
from archloom.db.store import Store
from archloom.errors import EnvironmentProblem

LOCK = """
import sqlite3, sys, time
with sqlite3.connect(sys.argv[1], isolation_level=None) as database:
    database.execute("BEGIN IMMEDIATE")
    print("locked", flush=True)
    time.sleep(float(sys.argv[2]))
"""

CALL = LanguageModelCall(
    key="one",
    role=Role.RESEARCHER,
    prompt="researcher/1",
    endpoint="http://host/v1",
    ask=0,
    cost=3,
    at=datetime(2026, 1, 1, tzinfo=UTC),
    model="m",
    request="{}",
    response="{}",
    prompt_tokens=1,
    completion_tokens=2,
    seconds=0.5,
)


def lock(location: str, *, seconds: float) -> "subprocess.Popen[str]":
    """Returns when another process holds the write lock of a file."""
    process = subprocess.Popen([sys.executable, "-c", LOCK, location, str(seconds)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "locked\n"
    return process


@pytest.fixture
def file(store: Store, location: str) -> str:
    """The path of the ledger; there are no locks of files on PostgreSQL."""
    if "://" in location:
        pytest.skip("SQLite's lock")
    return location


def test_a_locked_file_is_waited_for(store: Store, file: str, planned: EvaluationKey) -> None:
    pauses: list[float] = []

    def pause(seconds: float) -> None:
        pauses.append(seconds)
        time.sleep(seconds)

    with store.patient(Patience(seconds=60, pause=pause)) as patient:
        other = lock(file, seconds=2.5)
        started = time.monotonic()
        attempt = patient.claim("first", planned, worker="w", lease_seconds=60)
        assert time.monotonic() - started > 1.5
        other.communicate()
    assert attempt is not None
    assert attempt.number == 1
    assert pauses == sorted(pauses), "ever less often"
    assert 1 <= len(pauses) <= 5
    assert max(pauses) <= LONGEST_WAIT


def test_spent_patience_is_an_error_and_changes_nothing(store: Store, file: str, planned: EvaluationKey) -> None:
    other = lock(file, seconds=600)
    with store.patient(Patience(seconds=0.5)) as patient:
        assert patient.attempts("first", planned) == 0, "readers do not wait"
        with pytest.raises(EnvironmentProblem, match=r"ledger\.db was out of reach for 0\.5 s .*locked.*resume"):
            patient.claim("first", planned, worker="w", lease_seconds=60)
        other.kill()
        other.communicate()
        assert patient.attempts("first", planned) == 0
        assert patient.claim("first", planned, worker="w", lease_seconds=60) is not None


def test_a_fault_that_stays_is_not_waited_for(store: Store, planned: EvaluationKey) -> None:
    store._write(lambda session: session.execute(text("DROP TABLE events")))

    def pause(seconds: float) -> None:
        raise AssertionError("it waited")

    with store.patient(Patience(seconds=60, pause=pause)) as patient, pytest.raises(EnvironmentProblem, match="events"):
        patient.add_event("first", kind="note", text="lost")


def test_giving_up_in_a_pause_leaves_the_wait(store: Store, file: str, planned: EvaluationKey) -> None:
    def pause(seconds: float) -> None:
        raise KeyboardInterrupt

    other = lock(file, seconds=600)
    with store.patient(Patience(seconds=600, pause=pause)) as patient, pytest.raises(KeyboardInterrupt):
        patient.claim("first", planned, worker="w", lease_seconds=60)
    other.kill()
    other.communicate()


def test_a_server_that_refuses_is_waited_for() -> None:
    """Nobody listens at the port: a real refusal, after which the same is tried again."""
    pytest.importorskip("psycopg")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = make_url(f"postgresql+psycopg://archloom:secret@127.0.0.1:{free.getsockname()[1]}/ledger")
    pauses: list[float] = []
    with (
        Store(connect(url), url=url, patience=Patience(seconds=0.3, pause=pauses.append)) as store,
        pytest.raises(EnvironmentProblem, match=r"out of reach for 0\.3 s .*refused") as caught,
    ):
        store.campaigns()
    assert len(pauses) > 1
    assert "secret" not in str(caught.value)


@pytest.fixture
def unsure(store: Store, monkeypatch: pytest.MonkeyPatch) -> Iterator[Store]:
    """A patient twin of the store whose first commit is made and reported as failed."""
    patient = store.patient(Patience(seconds=60, pause=lambda seconds: None))
    dialect = patient._engine.dialect
    commit, broken = dialect.do_commit, []

    def commit_and_break(connection: object) -> None:
        commit(connection)  # type: ignore[arg-type]
        if not broken:
            broken.append(True)
            if dialect.name == "sqlite":
                error: Exception = sqlite3.OperationalError("disk I/O error")
                error.sqlite_errorcode = sqlite3.SQLITE_IOERR  # type: ignore[attr-defined]
            else:
                import psycopg

                error = psycopg.OperationalError("server closed the connection")
            raise error

    monkeypatch.setattr(dialect, "do_commit", commit_and_break)
    with patient:
        yield patient


def count(store: Store, table: str) -> object:
    return store.query(f"SELECT count(*) FROM {table}")[1][0][0]


def test_a_claim_that_was_made_is_found(store: Store, unsure: Store, planned: EvaluationKey) -> None:
    attempt = unsure.claim("first", planned, worker="w", lease_seconds=60)
    assert attempt is not None
    assert (attempt.number, store.attempts("first", planned), count(store, "attempts")) == (1, 1, 1)
    assert store.claim("first", planned, worker="other", lease_seconds=60) is None


def test_a_claim_of_another_is_not_taken_for_ones_own(store: Store, unsure: Store, planned: EvaluationKey) -> None:
    assert store.claim("first", planned, worker="other", lease_seconds=60) is not None
    assert unsure.claim("first", planned, worker="w", lease_seconds=60) is None


def test_a_measurement_that_was_stored_is_found(
    store: Store, unsure: Store, planned: EvaluationKey, make_measurement: Callable[..., Measurement]
) -> None:
    attempt = store.claim("first", planned, worker="w", lease_seconds=60)
    assert attempt is not None
    assert unsure.finish("first", attempt, make_measurement(planned, score=0.25)) is True
    assert store.measurement("first", planned).score == 0.25
    assert unsure.finish("first", attempt, make_measurement(planned, score=0.75)) is False


def test_what_is_appended_is_appended_once(store: Store, unsure: Store, planned: EvaluationKey) -> None:
    before = count(store, "events")
    unsure.add_event("first", kind="note", text="once")
    assert count(store, "events") == before + 1  # type: ignore[operator]


def test_a_call_is_recorded_once(store: Store, unsure: Store) -> None:
    unsure.reserve_call("first", CALL)
    assert store.calls("first") == (CALL,)


def test_a_release_that_was_made_is_no_error(store: Store, unsure: Store) -> None:
    store.acquire("first", owner="me")
    unsure.release("first", owner="me", state=CampaignState.FINISHED, wall_seconds=1.0)
    assert store.campaign("first").state is CampaignState.FINISHED
    with pytest.raises(EnvironmentProblem, match="nobody"):
        unsure.release("first", owner="me", state=CampaignState.STOPPED, wall_seconds=1.0)


def test_losses_count_the_attempts_that_died_with_their_worker(
    store: Store, unsure: Store, planned: EvaluationKey
) -> None:
    def attempt() -> object:
        claimed = store.claim("first", planned, worker="w", lease_seconds=60)
        assert claimed is not None
        return claimed

    assert store.losses("first", planned) == 0
    unsure.lose("first", attempt(), reason="signal 9")  # type: ignore[arg-type]
    store.abandon("first", attempt(), reason="the session ended")  # type: ignore[arg-type]
    attempt()
    store.expire("first")
    assert store.losses("first", planned) == 1
    store.lose("first", attempt(), reason="signal 11")  # type: ignore[arg-type]
    assert store.losses("first", planned) == 2
    assert store.query("SELECT outcome FROM attempts ORDER BY number")[1] == [
        ("lost",),
        ("abandoned",),
        ("expired",),
        ("lost",),
    ]
