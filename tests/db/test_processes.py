"""Several processes on one ledger: each key to one of them, and nothing lost to `kill -9`."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import update

from archloom.db import ownership
from archloom.db.records import CampaignState, Candidate, EvaluationKey, Measurement, TrialSpec
from archloom.db.store import Store
from archloom.db.tables import CampaignRow
from archloom.errors import EnvironmentProblem

KEYS = 50

CLAIM = """
import sys
from archloom.db.records import EvaluationKey
from archloom.db.store import Store
location, candidate, worker = sys.argv[1:]
with Store.open(location) as store:
    for line in sys.stdin:
        key = EvaluationKey(candidate=candidate, task="mqar", rung=0, seed=int(line))
        print(store.claim("first", key, worker=worker, lease_seconds=60) is not None, flush=True)
"""

HOLD = """
import sys
from archloom.db.records import EvaluationKey
from archloom.db.store import Store
location, candidate = sys.argv[1:]
store = Store.open(location)
store.acquire("first", owner="holder")
key = EvaluationKey(candidate=candidate, task="mqar", rung=0, seed=0)
print(store.claim("first", key, worker="w", lease_seconds=3600).number, flush=True)
sys.stdin.readline()
"""


def start(code: str, *arguments: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", code, *arguments]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


@contextmanager
def holder(location: str, key: EvaluationKey) -> Iterator[subprocess.Popen[str]]:
    """Another process that holds "first" and a lease of `key`, until it is killed."""
    with start(HOLD, location, key.candidate) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "1\n"
        yield process
        process.kill()


def rewrite(store: Store, **owner: object) -> None:
    """Put words into the mouth of the holder of "first"."""
    store._write(lambda session: session.execute(update(CampaignRow).values(owner)))


def test_processes_claim_each_key_exactly_once(
    store: Store,
    location: str,
    make_candidate: Callable[..., Candidate],
    make_spec: Callable[..., TrialSpec],
) -> None:
    candidate = make_candidate(0)
    store.add_candidate("first", candidate)
    store.plan("first", [make_spec(candidate, seed=seed) for seed in range(KEYS)])
    workers = [start(CLAIM, location, candidate.id, f"w{n}") for n in range(2)]
    try:
        for seed in range(KEYS):  # key by key, so that both try for each of them at the same moment
            for worker in workers:
                assert worker.stdin is not None
                worker.stdin.write(f"{seed}\n")
                worker.stdin.flush()
            answers = [worker.stdout.readline() for worker in workers if worker.stdout is not None]
            assert sorted(answers) == ["False\n", "True\n"]
    finally:
        for worker in workers:
            worker.communicate(timeout=60)
    assert store.query("SELECT number, count(*) AS n FROM attempts GROUP BY number")[1] == [(1, KEYS)]


def test_killed_runner_is_replaced_at_once(
    store: Store, location: str, planned: EvaluationKey, make_measurement: Callable[..., Measurement]
) -> None:
    with holder(location, planned) as process:
        with pytest.raises(EnvironmentProblem) as refused:
            store.acquire("first", owner="me")
        for fact in (str(process.pid), socket.gethostname(), f"{datetime.now(UTC):%Y-%m-%d}"):
            assert fact in str(refused.value)
        process.send_signal(signal.SIGKILL)
        # Not waited for: a zombie is dead as well.
        deadline = time.monotonic() + 10
        while ownership._born(process.pid) is not None and time.monotonic() < deadline:
            time.sleep(0.01)
        store.acquire("first", owner="me")
    assert store.campaign("first").state is CampaignState.RUNNING
    assert store.claim("first", planned, worker="me", lease_seconds=60) is None
    assert store.expire("first") == 1
    attempt = store.claim("first", planned, worker="me", lease_seconds=60)
    assert attempt is not None
    assert attempt.number == store.attempts("first", planned) == 2
    assert store.finish("first", attempt, make_measurement(planned)) is True
    with pytest.raises(EnvironmentProblem, match=f"no longer held.*process {os.getpid()}"):
        store.heartbeat("first", owner="holder", wall_seconds=1.0)


def test_kill_at_any_instant_leaves_whole_results(
    store: Store, location: str, make_candidate: Callable[..., Candidate], make_spec: Callable[..., TrialSpec]
) -> None:
    """A process that finishes evaluations as fast as it can is killed: each is finished with its series, or not."""
    work = """
import sys
from archloom.db.records import EvaluationKey, Measurement, Series
from archloom.db.store import Store
store = Store.open(sys.argv[1])
for seed in range(400):
    key = EvaluationKey(candidate=sys.argv[2], task="mqar", rung=0, seed=seed)
    attempt = store.claim("first", key, worker="w", lease_seconds=60)
    series = tuple(Series(name=name, steps=(1,), values=(0.5,)) for name in "ab")
    answer = Measurement(key=key, score=0.5, metrics={}, environment={}, seconds=1.0, series=series)
    print(store.finish("first", attempt, answer), flush=True)
"""
    candidate = make_candidate(0)
    store.add_candidate("first", candidate)
    specs = [make_spec(candidate, seed=seed) for seed in range(400)]
    store.plan("first", specs)
    with start(work, location, candidate.id) as process:
        assert process.stdout is not None
        answered = [process.stdout.readline() for _ in range(20)]
        process.kill()
        answered += process.stdout.readlines()
    assert set(answered) == {"True\n"}
    finished = [result.key for trial in store.history("first") for result in trial.results]
    assert len(answered) <= len(finished) <= len(answered) + 1
    assert len(finished) < len(specs)
    assert all(len(store.measurement("first", key).series) == 2 for key in finished)
    assert store.expire("first") <= 1
    assert store.query("SELECT count(*) AS n FROM attempts WHERE ended IS NULL")[1] == [(0,)]


def test_silent_holder_loses_the_campaign(store: Store, location: str, planned: EvaluationKey) -> None:
    with holder(location, planned):
        now = datetime.now(UTC)
        rewrite(store, owner_heartbeat=now - timedelta(seconds=50))
        with pytest.raises(EnvironmentProblem, match="is being run"):
            store.acquire("first", owner="me")
        rewrite(store, owner_heartbeat=now - timedelta(seconds=61))
        store.acquire("first", owner="me")


def test_recycled_process_number_is_not_the_holder(store: Store) -> None:
    store.acquire("first", owner="old")
    me = ownership.this_process()
    if me.born is None:
        pytest.skip("no /proc")
    rewrite(store, owner_process=me.born + "0")
    store.acquire("first", owner="new")


@pytest.mark.parametrize("elsewhere", [{"owner_host": "another-host"}, {"owner_process": "1:1"}])
def test_holder_that_cannot_be_seen_is_left_alone(store: Store, elsewhere: dict[str, object]) -> None:
    """Another host, or a container with process numbers of its own: only silence tells that it is gone."""
    store.acquire("first", owner="old")
    rewrite(store, owner_pid=2**22 + 1, **elsewhere)
    with pytest.raises(EnvironmentProblem, match="is being run"):
        store.acquire("first", owner="new")


def test_without_proc_the_process_number_decides(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ownership, "_namespace", lambda: None)
    here = socket.gethostname()
    assert not ownership.is_gone(ownership.Process(pid=os.getpid(), host=here, born=None))
    assert ownership.is_gone(ownership.Process(pid=2**22 + 1, host=here, born=None))


def test_holder_keeps_time_and_gives_up(store: Store) -> None:
    store.acquire("first", owner="a")
    store.acquire("first", owner="a")
    store.heartbeat("first", owner="a", wall_seconds=12.5)
    assert store.campaign("first").wall_seconds == 12.5
    with pytest.raises(EnvironmentProblem):
        store.release("first", owner="b", state=CampaignState.FINISHED, wall_seconds=99.0)
    store.release("first", owner="a", state=CampaignState.EXHAUSTED, wall_seconds=20.0)
    campaign = store.campaign("first")
    assert (campaign.state, campaign.wall_seconds) == (CampaignState.EXHAUSTED, 20.0)
    with pytest.raises(EnvironmentProblem, match="nobody"):
        store.heartbeat("first", owner="a", wall_seconds=21.0)
    store.acquire("first", owner="b")
