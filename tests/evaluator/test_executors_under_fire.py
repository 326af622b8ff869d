"""Every fault that a worker can have: it ends as the right kind of failure, once, and leaves no process behind."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from functools import partial
from multiprocessing import resource_tracker
from pathlib import Path
from types import ModuleType

import pytest

from archloom.db.records import EvaluationKey, FailureKind, Protocol, TrialSpec
from archloom.errors import ConfigError, EnvironmentProblem
from archloom.evaluator import memory
from archloom.evaluator.executors import Completion, Executor, make_executor
from archloom.evaluator.executors.guard import Guard
from archloom.evaluator.executors.pool import Pool
from archloom.evaluator.executors.process import ProcessSite
from archloom.evaluator.trial import within_memory

HERE = Path(__file__).parent
PROTOCOL = Protocol(version=1, grammar=1, reference="", width=1, depth=1, tasks=(), rungs=())


def spec(term: str, *, number: int = 0, timeout: float = 600.0) -> TrialSpec:
    key = EvaluationKey(candidate=str(number), task="mqar", rung=0, seed=number)
    return TrialSpec(key=key, term=term, protocol=PROTOCOL, steps=0, timeout_seconds=timeout)


def end(executor: Executor, trial: TrialSpec) -> Completion:
    """How a trial ends; fails after half a minute."""
    executor.submit(trial)
    limit = time.monotonic() + 30
    while time.monotonic() < limit:
        for completion in executor.completed(timeout=5):
            return completion
    raise AssertionError(f"{trial.term!r} did not end in half a minute")


def measured(executor: Executor, term: str) -> dict[str, int]:
    """The numbers of processes that a healthy trial tells."""
    completion = end(executor, spec(term))
    assert completion.measurement is not None, completion.lost
    assert completion.measurement.failure is None
    return {name: int(value) for name, value in completion.measurement.metrics.items()}


def failure_of(completion: Completion) -> tuple[FailureKind, str]:
    failure = completion.measurement.failure if completion.measurement else completion.lost
    assert failure is not None
    return failure.kind, failure.reason


def vanish(*pids: int) -> None:
    """Waits until none of the processes runs; fails after ten seconds."""
    limit = time.monotonic() + 10
    while running := [pid for pid in pids if alive(pid)]:
        assert time.monotonic() < limit, f"processes {running} are left"
        time.sleep(0.02)


def alive(pid: int) -> bool:
    """Whether a process runs; one that has ended and that nobody has buried does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def children() -> set[int]:
    """Processes that this one has started, dead ones that it has not buried included, but for multiprocessing's own."""
    found: set[int] = set()
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[1]) == os.getpid():
            found.add(int(stat.parent.name))
    return found - {resource_tracker._resource_tracker._pid}


def quick(faults: ModuleType, *, workers: int = 1, grace: float = 0.3) -> Executor:
    """A pool of processes that load no torch."""
    return Pool(ProcessSite(work=faults.suffer, prepare=faults.prepare), workers=workers, grace=grace)


@pytest.fixture(scope="module")
def processes(faults: ModuleType) -> Iterator[Executor]:
    with quick(faults) as executor:
        yield executor


def test_a_closed_pool_leaves_no_process(faults: ModuleType) -> None:
    before = children()
    with quick(faults, workers=2) as executor:
        started = [*measured(executor, "children").values(), *measured(executor, "children").values()]
        assert failure_of(end(executor, spec("signal 9")))[0] is FailureKind.WORKER_LOST
        for term in ("hold", "deaf", "sleep"):
            executor.submit(spec(term))
        executor.completed(timeout=0.2)
        assert len(children() - before) == 3, "two workers and their guard"
    assert children() <= before
    vanish(*started)


@pytest.mark.parametrize(
    ("term", "kind", "words"),
    [
        ("raise a wrong turn", FailureKind.ERROR, "ValueError: a wrong turn"),
        ("unsendable", FailureKind.ERROR, "pickle"),
        ("swell", FailureKind.ERROR, "at most 16777216 are kept"),
        ("miss no text here", FailureKind.WORKER_LOST, "no text here"),
        ("signal 9", FailureKind.WORKER_LOST, "was killed by SIGKILL"),
        ("signal 11", FailureKind.WORKER_LOST, "was killed by SIGSEGV"),
        ("signal 40", FailureKind.WORKER_LOST, "was killed by signal 40"),
        ("exit 3", FailureKind.WORKER_LOST, "ended with exit code 3"),
        ("exit 0", FailureKind.WORKER_LOST, "ended with exit code 0"),
        ("orphan", FailureKind.WORKER_LOST, "was killed by SIGKILL"),
        ("garble", FailureKind.WORKER_LOST, "no message: b'garbage"),
        ("announce", FailureKind.TIMEOUT, "killed: the trial had 0.2 s"),
        ("shut", FailureKind.WORKER_LOST, "closed its stream and went on"),
        ("sleep", FailureKind.TIMEOUT, "killed: the trial had 0.2 s"),
        ("hold", FailureKind.TIMEOUT, "killed: the trial had 0.2 s"),
        ("deaf", FailureKind.TIMEOUT, "killed: the trial had 0.2 s"),
        ("signal 19", FailureKind.TIMEOUT, "killed: the trial had 0.2 s"),
    ],
)
def test_every_fault_has_a_kind_and_the_pool_goes_on(
    processes: Executor, term: str, kind: FailureKind, words: str
) -> None:
    # A copy that the worker forked holds the stream open: then only the time limit ends a worker that shuts its own.
    before = measured(processes, "echo" if term == "shut" else "children")
    waits = kind is FailureKind.TIMEOUT
    completion = end(processes, spec(term, number=1, timeout=0.2 if waits else 600.0))
    assert completion.spec.key.candidate == "1"
    found, reason = failure_of(completion)
    assert found is kind
    assert words in reason
    if completion.lost is not None:
        assert 0 < completion.seconds < 10
    if completion.lost is not None or waits:
        vanish(*before.values())
    assert processes.completed(timeout=5) == [], "one trial, one completion"
    assert measured(processes, "echo")["pid"] in children()


def test_what_a_trial_prints_goes_nowhere(processes: Executor, capfd: pytest.CaptureFixture[str]) -> None:
    measured(processes, "print")
    assert capfd.readouterr() == ("", "")


def test_a_worker_that_forks_answers_once(processes: Executor) -> None:
    """The copy would come back from the trial too, answer it again and take the next one."""
    pid = measured(processes, "double")["pid"]
    assert [measured(processes, "echo")["pid"] for _ in range(5)] == [pid] * 5
    assert processes.completed(timeout=1) == []


@pytest.mark.parametrize("fatal", ["orphan", "hold", pytest.param("allocate 100", marks=pytest.mark.long)])
def test_faults_of_rays_workers(faults: ModuleType, ray: Executor, fatal: str) -> None:
    from archloom.evaluator.executors.cluster import RaySite

    site = RaySite(work=partial(within_memory, work=faults.suffer, gib=1.0), prepare=faults.prepare)
    with Pool(site, workers=1, grace=0.3) as executor:
        before = measured(executor, "children")
        kind, reason = failure_of(end(executor, spec(fatal, timeout=0.2 if fatal == "hold" else 600.0)))
        vanish(*before.values())
        expected = {
            "hold": (FailureKind.TIMEOUT, "killed: the trial had 0.2 s"),
            "allocate 100": (FailureKind.OUT_OF_MEMORY, "MemoryError"),
        }.get(fatal, (FailureKind.WORKER_LOST, "Ray lost the worker"))
        assert kind is expected[0]
        assert expected[1] in reason
        last = measured(executor, "children")
    vanish(*last.values())


def test_a_system_that_kills_for_memory_is_named(faults: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel's count of such kills is played: to be really killed, this machine would have to run out of memory."""
    count = iter([3, 3, 4])
    monkeypatch.setattr("archloom.evaluator.executors.process.oom_kills", lambda: next(count, 4))
    with quick(faults) as executor:
        completion = end(executor, spec("signal 9"))
        assert completion.lost is not None
        kind, reason = failure_of(completion)
        assert kind is FailureKind.OUT_OF_MEMORY
        assert "the kernel, which was out of memory" in reason
        assert failure_of(end(executor, spec("signal 9")))[0] is FailureKind.WORKER_LOST


def test_the_kernels_count_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert memory.oom_kills() >= 0
    monkeypatch.setattr(memory, "VMSTAT", tmp_path / "vmstat")
    assert memory.oom_kills() == 0
    memory.VMSTAT.write_text("nr_free_pages 7\noom_kill 12\noom_kill_disable 5\n")
    assert memory.oom_kills() == 12


def test_a_memory_limit_refuses_and_the_next_trial_has_a_fresh_worker(faults: ModuleType) -> None:
    work = partial(within_memory, work=faults.suffer, gib=0.5)
    with Pool(ProcessSite(work=work, prepare=faults.prepare), workers=1) as executor:
        before = measured(executor, "echo")["pid"]
        completion = end(executor, spec("allocate 100"))
        assert completion.measurement is not None
        assert failure_of(completion) == (FailureKind.OUT_OF_MEMORY, "MemoryError: ")
        assert measured(executor, "echo")["pid"] != before
        assert not alive(before)


def test_a_memory_limit_holds_in_this_process(faults: ModuleType) -> None:
    with make_executor("inline", memory_gib=3.0, work=faults.suffer) as executor:
        assert failure_of(end(executor, spec("allocate 100"))) == (FailureKind.OUT_OF_MEMORY, "MemoryError: ")
        assert measured(executor, "echo")["pid"] == os.getpid()


def test_torch_is_refused_memory_in_its_own_words() -> None:
    torch = pytest.importorskip("torch")
    with memory.limited(2.0), pytest.raises(RuntimeError) as caught:
        torch.empty(100 << 30, dtype=torch.uint8)
    assert memory.is_refusal(caught.value)
    assert memory.is_refusal(torch.OutOfMemoryError("CUDA out of memory"))
    assert not memory.is_refusal(RuntimeError("a shape does not fit"))
    assert not memory.is_refusal(ValueError("cannot allocate memory"))
    assert torch.empty(3 << 30, dtype=torch.uint8).numel() == 3 << 30, "the limit was not lifted"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"memory_gib": 0.1}, r"1 GiB or more, got memory_gib = 0\.1"),
        ({"memory_gib": 4.0, "gpus_per_worker": 1.0}, "limits workers on the CPU"),
    ],
)
def test_memory_limits_that_cannot_be_kept(arguments: dict[str, float], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        make_executor("ray", **arguments)  # type: ignore[arg-type]


def test_a_pool_that_cannot_start_all_its_workers_leaves_none(
    faults: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, site, start = children(), ProcessSite(work=faults.suffer, prepare=faults.prepare), ProcessSite.start
    started = []

    def twice(self: ProcessSite) -> object:
        if len(started) == 2:
            raise EnvironmentProblem("no worker process can be started")
        started.append(start(self))
        return started[-1]

    monkeypatch.setattr(ProcessSite, "start", twice)
    with pytest.raises(EnvironmentProblem, match="can be started"):
        Pool(site, workers=3)
    assert children() <= before


def test_a_worker_that_cannot_be_replaced_ends_the_pool_cleanly(
    faults: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also when the successor cannot be started, the worker that is dead already is not killed once more."""
    before = children()

    def refuse(*arguments: object, **more: object) -> None:
        raise OSError("Resource temporarily unavailable")

    with quick(faults) as executor:
        measured(executor, "echo")
        monkeypatch.setattr("archloom.evaluator.executors.process.ProcessWorker", refuse)
        executor.submit(spec("signal 9"))
        with pytest.raises(EnvironmentProblem, match=r"Resource temporarily unavailable.*fewer workers"):
            executor.completed(timeout=30)
    assert children() <= before


def test_a_worker_that_never_gets_ready_is_replaced(faults: ModuleType) -> None:
    site = ProcessSite(work=faults.suffer, prepare=faults.never_ready)
    site.start_seconds = 0.5
    with Pool(site, workers=1) as executor:
        executor.submit(spec("echo"))
        with pytest.raises(EnvironmentProblem, match=r"3 workers in a row .* not ready after"):
            executor.completed(timeout=30)


@pytest.mark.parametrize("stuck", ["sleep", "hold", "deaf"])
def test_kill_9_of_the_pools_process_leaves_nothing(faults: ModuleType, stuck: str) -> None:
    """Also not what a worker has started, nor a worker that holds Python's lock, nor the guard."""
    script = f"""
import sys
sys.path.insert(0, {str(HERE)!r})
import fault_work
from archloom.db.records import EvaluationKey, Protocol, TrialSpec
from archloom.evaluator.executors.pool import Pool
from archloom.evaluator.executors.process import ProcessSite
from archloom.evaluator.trial import within_memory

if __name__ == "__main__":
    key = EvaluationKey(candidate="0", task="mqar", rung=0, seed=0)
    protocol = Protocol(version=1, grammar=1, reference="", width=1, depth=1, tasks=(), rungs=())
    site = ProcessSite(work=fault_work.suffer, prepare=fault_work.prepare)
    with Pool(site, workers=1) as executor:
        for term in ("children", {stuck!r}):
            executor.submit(TrialSpec(key=key, term=term, protocol=protocol, steps=0))
            for completion in executor.completed(timeout=60 if term == "children" else 1):
                print(*map(int, completion.measurement.metrics.values()), site._guard._process.pid, flush=True)
        print("stuck", flush=True)
        executor.completed(timeout=600)
"""
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        pids = [int(pid) for pid in parent.stdout.readline().split()]
        assert len(pids) == 4
        assert parent.stdout.readline() == "stuck\n"
        assert all(alive(pid) for pid in pids)
        parent.kill()
        vanish(*pids)


def test_a_guard_that_was_killed_is_replaced(faults: ModuleType) -> None:
    sleeper = subprocess.Popen(["sleep", "600"], start_new_session=True)
    guard = Guard()
    guard.watch(sleeper.pid)
    guard._process.kill()
    guard._process.wait()
    guard.watch(2**22)  # any order: the broken pipe is noticed by it
    assert alive(sleeper.pid)
    guard.forget(2**22)
    guard.close()
    assert sleeper.wait(timeout=5) == -signal.SIGKILL
