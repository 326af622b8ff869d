"""A campaign whose workers, driver, store or node fail: nothing is lost, nothing counts twice, nothing runs for ever.

Trials only pretend (`campaign_work.py`): every try leaves a file, which is the oracle for what the ledger says.
"""

import contextlib
import importlib
import os
import re
import signal
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import pytest

from archloom import campaign
from archloom.arrivals import Arrivals
from archloom.config import Config
from archloom.db.records import CampaignState, EvaluationKey, FailureKind, Protocol, Result, TrialSpec
from archloom.db.store import Store
from archloom.errors import ConfigError, EnvironmentProblem

HERE = Path(__file__).parent
Configure = Callable[..., Config]

DRIVER = f"""
import sys
sys.path.insert(0, {str(HERE)!r})
import campaign_work
from archloom import campaign
from archloom.config import Config
from archloom.db.store import Store
from archloom.errors import ArchloomError

if __name__ == "__main__":
    campaign.make_executor = campaign_work.make_executor
    config = Config.load(sys.argv[1], sys.argv[2:]).config
    with Store.open(config.campaign.store, create=True) as store:
        resume = bool(store.campaigns())
        try:
            campaign.run(config, store=store, resume=resume, progress=lambda progress: None, stopping=lambda: 0)
        except ArchloomError as error:
            print(error)
            sys.exit(error.exit_code)
"""
"""A process that runs or resumes the campaign of a file."""

NODES = f"""
import sys
sys.path.insert(0, {str(HERE)!r})
import campaign_work
from ray.cluster_utils import Cluster
from archloom import campaign
from archloom.config import Config
from archloom.db.store import Store

if __name__ == "__main__":
    campaign.make_executor = campaign_work.make_executor
    small = {{"object_store_memory": 80_000_000, "include_dashboard": False}}
    cluster = Cluster(initialize_head=True, head_node_args={{"num_cpus": 0, **small}})
    nodes = [cluster.add_node(num_cpus=1, **small) for _ in range(2)]
    settings = [*sys.argv[2:], "executor.kind=ray", f"ray.address={{cluster.address}}"]
    config = Config.load(sys.argv[1], settings).config

    begun = []

    def stopping():
        tries = sum(campaign_work.tries().values())
        if not begun and tries >= 8:
            campaign_work.order(seconds=4.0)
            begun.append(tries)
        elif begun and tries >= begun[0] + 2 and len(nodes) == 2:  # so long ones, on both nodes
            cluster.remove_node(nodes.pop(), allow_graceful=False)
            campaign_work.order()
            print("lost", tries, flush=True)
        return 0

    with Store.open(config.campaign.store, create=True) as store:
        outcome = campaign.run(config, store=store, resume=False, progress=lambda state: None, stopping=stopping)
    print(outcome.state.value, flush=True)
    cluster.shutdown()
"""
"""Two nodes of Ray on this machine, of which one is killed in the middle of the campaign."""

LOCK = """
import sqlite3, sys, time
with sqlite3.connect(sys.argv[1], isolation_level=None) as database:
    database.execute("BEGIN IMMEDIATE")
    print("locked", flush=True)
    time.sleep(float(sys.argv[2]))
"""
"""A process that locks a store for some seconds."""


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The work of the tests, with a folder of its own, in place of real trials."""
    (tmp_path / "tries").mkdir()
    monkeypatch.syspath_prepend(HERE)
    monkeypatch.setenv("CAMPAIGN_WORK", str(tmp_path / "tries"))
    module = importlib.import_module("campaign_work")
    monkeypatch.setattr("archloom.campaign.make_executor", module.make_executor)
    return module


@pytest.fixture
def configuration(campaign_file: Callable[[Path], Path], tmp_path: Path) -> Configure:
    """The small campaign with more candidates, on two processes that only pretend."""
    settings = ("executor.kind=process", "budget.candidates=12")
    return lambda *changes: Config.load(str(campaign_file(tmp_path)), [*settings, *changes]).config


@pytest.fixture
def drive(campaign_file: Callable[[Path], Path], tmp_path: Path) -> Iterator[Callable[..., "subprocess.Popen[str]"]]:
    """Starts a driver of the same campaign as a process; it is killed in the end."""
    with contextlib.ExitStack() as stack:

        def start(*changes: str) -> "subprocess.Popen[str]":
            settings = ("executor.kind=process", "budget.candidates=12", *changes)
            command = [sys.executable, "-c", DRIVER, str(campaign_file(tmp_path)), *settings]
            driver = stack.enter_context(subprocess.Popen(command, stdout=subprocess.PIPE, text=True))
            stack.callback(driver.kill)
            return driver

        yield start


def go(config: Config, *, resume: bool = False, stopping: Callable[[], int] = lambda: 0) -> campaign.Outcome:
    with Store.open(config.campaign.store, create=True) as store:
        return campaign.run(config, store=store, resume=resume, progress=lambda progress: None, stopping=stopping)


def results(location: str) -> dict[EvaluationKey, Result]:
    with Store.open(location) as store:
        return {result.key: result for trial in store.history("small") for result in trial.results}


def scores(location: str) -> dict[EvaluationKey, float | None]:
    return {key: result.score for key, result in results(location).items()}


def outcomes(location: str) -> Counter[tuple[str, ...]]:
    """How often the attempts of an evaluation ended in this way, one after the other."""
    with Store.open(location) as store:
        rows = store.query("SELECT evaluation_id, outcome FROM attempts ORDER BY evaluation_id, number")[1]
    ends: dict[object, tuple[str, ...]] = {}
    for evaluation, outcome in rows:
        ends[evaluation] = (*ends.get(evaluation, ()), str(outcome))
    return Counter(ends.values())


def wait_for(condition: Callable[[], object]) -> None:
    limit = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < limit, "it did not come to that in a minute"
        time.sleep(0.02)


@pytest.fixture
def whole(work: ModuleType, configuration: Configure, tmp_path: Path) -> dict[EvaluationKey, float | None]:
    """The scores of the campaign when nothing goes wrong; its ledger and its tries are put away."""
    config = configuration()
    assert go(config).state is CampaignState.FINISHED
    found = scores(config.campaign.store)
    assert set(work.tries().values()) == {1}
    assert len(work.tries()) == len(found)
    (tmp_path / "small.db").unlink()
    for file in work.folder().iterdir():
        file.unlink()
    return found


def test_workers_that_die_once_change_nothing(
    work: ModuleType, configuration: Configure, whole: dict[EvaluationKey, float | None]
) -> None:
    work.order(every=4, deaths=1)
    config = configuration()
    assert go(config).state is CampaignState.FINISHED
    assert scores(config.campaign.store) == whole
    victims = sum(work.number(key) % 4 == 0 for key in whole)
    assert victims > 3
    assert outcomes(config.campaign.store) == {("lost", "done"): victims, ("done",): len(whole) - victims}
    assert work.tries() == {work.name(key): 1 + (work.number(key) % 4 == 0) for key in whole}


def test_a_candidate_that_kills_every_worker_fails_after_three(work: ModuleType, configuration: Configure) -> None:
    work.order(every=5, deaths=99)
    config = configuration()
    assert go(config).state is CampaignState.FINISHED
    found = results(config.campaign.store)
    victims = {key for key in found if work.number(key) % 5 == 0}
    assert victims
    for key in victims:
        failure = found[key].failure
        assert failure is not None
        assert failure.kind is FailureKind.WORKER_LOST
        assert failure.reason.endswith("was killed by SIGKILL (3 attempts)")
        assert found[key].seconds > 0
    assert outcomes(config.campaign.store) == {
        ("lost", "lost", "failed"): len(victims),
        ("done",): len(found) - len(victims),
    }
    assert work.tries() == {work.name(key): 3 if key in victims else 1 for key in found}


@pytest.mark.parametrize("then_dies", [False, True])
def test_kill_9_of_the_driver_during_a_retry(
    then_dies: bool,
    work: ModuleType,
    configuration: Configure,
    drive: Callable[..., "subprocess.Popen[str]"],
    whole: dict[EvaluationKey, float | None],
) -> None:
    """A driver's death is no fault of the candidate and is not counted; deaths of its workers are, over both sessions.

    `every` is such that exactly one evaluation of the campaign is a victim.
    """
    victim = min(whole, key=lambda key: work.number(key))
    work.order(every=work.number(victim), deaths=1, hang=600.0)
    driver = drive()
    wait_for((work.folder() / f"{work.name(victim)}.1.try").exists)
    worker = int((work.folder() / f"{work.name(victim)}.1.try").read_text())
    driver.kill()
    driver.wait()
    wait_for(lambda: not _alive(worker))
    config = configuration()
    before = results(config.campaign.store)
    work.order(every=work.number(victim), deaths=99 if then_dies else 0)
    assert go(config, resume=True).state is CampaignState.FINISHED
    ends = outcomes(config.campaign.store)
    if then_dies:
        failure = results(config.campaign.store)[victim].failure
        assert failure is not None
        assert failure.kind is FailureKind.WORKER_LOST
        assert ends["lost", "expired", "lost", "failed"] == 1
        return
    assert scores(config.campaign.store) == whole
    assert ends["lost", "expired", "done"] == 1
    assert ends["done",] + ends["expired", "done"] == len(whole) - 1
    assert all(work.tries()[work.name(key)] == 1 for key in before)


def _alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_a_driver_that_slept_while_another_took_over(
    work: ModuleType,
    configuration: Configure,
    drive: Callable[..., "subprocess.Popen[str]"],
    whole: dict[EvaluationKey, float | None],
) -> None:
    """The first is stopped amid its trials, and its silence is made a minute; awake again it must write nothing."""
    config = configuration()
    work.order(seconds=0.2)
    first = drive()
    wait_for(lambda: len(work.tries()) > 6)
    with pytest.raises(EnvironmentProblem, match=f"is being run by process {first.pid}"):
        go(config, resume=True)
    first.send_signal(signal.SIGSTOP)
    with contextlib.closing(sqlite3.connect(config.campaign.store)) as ledger, ledger:
        ledger.execute("UPDATE campaigns SET owner_heartbeat = '2026-01-01 00:00:00.000000'")
    work.order()
    assert go(config, resume=True).state is CampaignState.FINISHED
    first.send_signal(signal.SIGCONT)
    said, _ = first.communicate(timeout=30)
    assert first.returncode == EnvironmentProblem.exit_code
    assert "taken over" in said or "no longer held" in said
    assert scores(config.campaign.store) == whole
    ends = outcomes(config.campaign.store)
    assert set(ends) <= {("done",), ("expired", "done")}
    assert 1 <= ends["expired", "done"] <= 2
    with Store.open(config.campaign.store) as store:
        assert store.campaign("small").state is CampaignState.FINISHED


def test_a_store_that_is_locked_for_a_while_is_waited_for(
    work: ModuleType, configuration: Configure, whole: dict[EvaluationKey, float | None]
) -> None:
    """Locked for 4 s, once a few trials are done; a transaction asks for the lock for 1 s at a time."""
    config = configuration("executor.patience_seconds=30")
    lock: list[subprocess.Popen[str]] = []

    def stopping() -> int:
        if not lock and len(work.tries()) > 5:
            lock.append(_lock(config.campaign.store, seconds=4))
        return 0

    started = time.monotonic()
    assert go(config, stopping=stopping).state is CampaignState.FINISHED
    assert time.monotonic() - started > 4
    lock[0].communicate()
    assert scores(config.campaign.store) == whole
    assert outcomes(config.campaign.store) == {("done",): len(whole)}
    assert set(work.tries().values()) == {1}


def test_a_store_that_stays_away_ends_the_session_and_resume_completes(
    work: ModuleType,
    configuration: Configure,
    drive: Callable[..., "subprocess.Popen[str]"],
    whole: dict[EvaluationKey, float | None],
) -> None:
    config = configuration()
    work.order(seconds=0.1)
    driver = drive("executor.patience_seconds=1.5")
    wait_for(lambda: len(work.tries()) > 5)
    lock = _lock(config.campaign.store, seconds=600)
    said, _ = driver.communicate(timeout=30)
    lock.kill()
    lock.communicate()
    assert driver.returncode == EnvironmentProblem.exit_code
    assert re.search(r"out of reach for 1\.5 s .* locked.*archloom resume", said), said
    before = results(config.campaign.store)
    assert 0 < len(before) < len(whole)
    assert go(config, resume=True).state is CampaignState.FINISHED
    assert scores(config.campaign.store) == whole
    assert sum(outcomes(config.campaign.store).values()) == len(whole)
    assert all(work.tries()[work.name(key)] == 1 for key in before)


def _lock(location: str, *, seconds: float) -> "subprocess.Popen[str]":
    """Returns when another process holds the lock."""
    command = [sys.executable, "-c", LOCK, location, str(seconds)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "locked\n"
    return process


def test_the_configuration_reaches_the_executor(configuration: Configure, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: dict[str, object] = {}
    monkeypatch.setattr("archloom.campaign.make_executor", lambda kind, **given: asked.update(given))
    campaign._executor(configuration("executor.memory_gib=1.5"))
    assert asked["memory_gib"] == 1.5
    campaign._executor(configuration())
    assert asked["memory_gib"] is None
    with pytest.raises(ConfigError, match=r"executor\.memory_gib"):
        configuration("executor.memory_gib=0.5")
    with pytest.raises(ConfigError, match=r"executor\.patience_seconds"):
        configuration("executor.patience_seconds=-1")


def test_while_the_store_is_away_limits_hold_and_answers_are_kept(work: ModuleType) -> None:
    """A pause of the ledger's: one trial hangs beyond its limit of 0.3 s, another is answered."""
    protocol = Protocol(version=1, grammar=1, reference="", width=1, depth=1, tasks=(), rungs=())
    keys = [EvaluationKey(candidate=str(n), task="mqar", rung=0, seed=0) for n in range(2)]
    hung = max(keys, key=work.number)
    work.order(every=work.number(hung), deaths=0, hang=600.0)
    executor = work.make_executor(
        "process", workers=2, ray_address=None, gpus_per_worker=0.0, kernels="chunked", memory_gib=None
    )
    stop = 0
    arrivals = Arrivals(lambda: stop)
    with executor:
        arrivals.follow(executor)
        for key in keys:
            executor.submit(TrialSpec(key=key, term="", protocol=protocol, steps=0, timeout_seconds=0.3))
        limit = time.monotonic() + 60
        while len(arrivals.kept) < 2 and time.monotonic() < limit:
            arrivals.pause(0.5)
        answers = {completion.spec.key: completion.measurement for completion in arrivals.kept}
        late, healthy = answers[hung], answers[min(keys, key=work.number)]
        assert healthy is not None
        assert healthy.failure is None
        assert late is not None
        assert late.failure is not None
        assert late.failure.kind is FailureKind.TIMEOUT
        started = time.monotonic()
        arrivals.pause(0.3)
        assert time.monotonic() - started >= 0.3
        stop = 2
        with pytest.raises(KeyboardInterrupt):
            arrivals.pause(60.0)
        assert time.monotonic() - started < 10


@pytest.mark.slow
def test_a_node_that_is_lost_changes_nothing(
    work: ModuleType,
    configuration: Configure,
    campaign_file: Callable[[Path], Path],
    tmp_path: Path,
    whole: dict[EvaluationKey, float | None],
) -> None:
    """The trial of the dead node is tried again on the other one, which does all the rest."""
    pytest.importorskip("ray")
    command = [sys.executable, "-c", NODES, str(campaign_file(tmp_path)), "budget.candidates=12"]
    quiet = {"PYTHONPATH": str(HERE), "RAY_USAGE_STATS_ENABLED": "0", "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}
    run = subprocess.run(command, env=os.environ | quiet, capture_output=True, text=True, timeout=180)
    assert run.returncode == 0, run.stderr
    lost, finished = run.stdout.splitlines()[-2:]
    assert lost.startswith("lost ")
    assert finished == "finished"
    store = configuration().campaign.store
    assert scores(store) == whole
    ends = outcomes(store)
    assert set(ends) <= {("done",), ("lost", "done")}
    assert ends["lost", "done"] >= 1
    assert sum(ends.values()) == len(whole)
