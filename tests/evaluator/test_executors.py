"""One suite of laws that every executor keeps, then what only workers in other processes can do or suffer.

The executors are in `conftest.py`; what workers suffer is in `test_executors_under_fire.py`.
"""

import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from archloom.db.records import EvaluationKey, FailureKind, Measurement, Protocol, Task, TrialSpec
from archloom.errors import ConfigError, EnvironmentProblem
from archloom.evaluator.executors import Completion, Executor, ExecutorKind, make_executor
from archloom.evaluator.executors.pool import Died, Message, Pool, Ready
from archloom.evaluator.trial import Work

HERE = Path(__file__).parent
MQAR = Task(name="mqar", vocabulary=16, length=8, batch=16, options=(("evaluation", 32), ("pairs", 2)))
PROTOCOL = Protocol(version=1, grammar=1, reference="", width=16, depth=1, tasks=(MQAR,), rungs=())


def spec(term: str, *, number: int = 0, steps: int = 30, timeout: float = 600.0) -> TrialSpec:
    key = EvaluationKey(candidate=str(number), task="mqar", rung=0, seed=number)
    return TrialSpec(key=key, term=term, protocol=PROTOCOL, steps=steps, timeout_seconds=timeout)


def gather(executor: Executor, count: int) -> list[Completion]:
    """The next `count` completions; fails after two minutes, which is far more than any worker takes to start."""
    completions: list[Completion] = []
    end = time.monotonic() + 120
    while len(completions) < count:
        assert time.monotonic() < end, f"{len(completions)} of {count} trials ended in two minutes"
        completions += executor.completed(timeout=5)
    return completions


def answer(executor: Executor, trial: TrialSpec) -> Measurement:
    executor.submit(trial)
    (completion,) = gather(executor, 1)
    assert completion.measurement is not None, completion.lost
    return completion.measurement


def test_every_trial_ends_once(executor: Executor) -> None:
    trials = [spec("echo", number=number) for number in range(20)]
    for trial in trials:
        executor.submit(trial)
    completions = gather(executor, 20)
    assert sorted(int(completion.spec.key.candidate) for completion in completions) == list(range(20))
    assert all(c.measurement is not None and c.measurement.key == c.spec.key for c in completions)


def test_nothing_out_is_nothing_to_wait_for(executor: Executor) -> None:
    started = time.monotonic()
    assert executor.completed(timeout=30) == []
    assert time.monotonic() - started < 5


def test_training_gives_the_same_bits_as_in_this_process(executor: Executor, inline: Executor) -> None:
    here, there = answer(inline, spec("train", number=3)), answer(executor, spec("train", number=3))
    assert here.failure is None
    assert here.score == there.score
    assert here.series == there.series
    assert here.metrics == there.metrics
    assert here.environment == there.environment


def test_an_exception_is_a_failure_with_its_traceback(executor: Executor) -> None:
    failure = answer(executor, spec("raise a wrong turn")).failure
    assert failure is not None
    assert (failure.kind, failure.reason) == (FailureKind.ERROR, "ValueError: a wrong turn")
    assert failure.traceback is not None
    assert "executor_work.py" in failure.traceback


def test_the_training_loop_keeps_its_time_limit(executor: Executor) -> None:
    failure = answer(executor, spec("train", steps=10**9, timeout=0.2)).failure
    assert failure is not None
    assert failure.kind is FailureKind.TIMEOUT


def test_workers_live_long_apart_and_on_one_thread(remote: Executor) -> None:
    metrics = [answer(remote, spec("echo")).metrics for _ in range(6)]
    assert {found["openmp"] for found in metrics} == {1.0}
    assert len({found["pid"] for found in metrics} - {os.getpid()}) <= remote.workers == 2
    assert os.getpid() not in {found["pid"] for found in metrics}


def test_dead_workers_are_noticed_replaced_and_not_retried(remote: Executor, capfd: pytest.CaptureFixture[str]) -> None:
    answer(remote, spec("echo"))
    started = time.monotonic()
    remote.submit(spec("die", number=7))
    remote.submit(spec("leave 3", number=8))
    first, second = gather(remote, 2)
    assert time.monotonic() - started < 60
    assert {first.spec.key.candidate, second.spec.key.candidate} == {"7", "8"}
    assert first.measurement is None is second.measurement
    assert first.lost
    assert second.lost
    assert answer(remote, spec("echo")).failure is None
    assert remote.completed(timeout=1) == []
    assert capfd.readouterr() == ("", "")


def test_a_hung_worker_is_killed_and_the_rest_goes_on(remote: Executor, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote, "_grace", 0.3)
    remote.submit(spec("hang", number=1, timeout=0.2))
    remote.submit(spec("echo", number=2))
    completions = {c.spec.key.candidate: c.measurement for c in gather(remote, 2)}
    hung, healthy = completions["1"], completions["2"]
    assert healthy is not None
    assert healthy.failure is None
    assert hung is not None
    assert hung.failure is not None
    assert hung.failure.kind is FailureKind.TIMEOUT
    assert 0.5 <= hung.seconds < 5
    assert answer(remote, spec("echo")).failure is None


def test_workers_ignore_interrupts_and_closing_kills_what_runs(obey: Work) -> None:
    """Ctrl-C reaches every process of a terminal: the parent decides what becomes of the trials."""
    pool = make_executor("process", workers=1, work=obey)
    pid = int(answer(pool, spec("echo")).metrics["pid"])
    os.kill(pid, signal.SIGINT)
    assert int(answer(pool, spec("echo")).metrics["pid"]) == pid
    pool.submit(spec("hang"))
    started = time.monotonic()
    pool.close()
    pool.close()
    assert time.monotonic() - started < 5
    assert not _alive(pid)
    with pytest.raises(ValueError, match="closed"):
        pool.submit(spec("echo"))


def test_workers_die_with_a_parent_that_is_killed(obey: Work) -> None:
    """The parent gets SIGKILL while its worker sleeps in a trial; the worker's pid must vanish."""
    script = f"""
import sys
sys.path.insert(0, {str(HERE)!r})
import executor_work
from archloom.db.records import EvaluationKey, Protocol, TrialSpec
from archloom.evaluator.executors import make_executor

if __name__ == "__main__":
    key = EvaluationKey(candidate="0", task="mqar", rung=0, seed=0)
    protocol = Protocol(version=1, grammar=1, reference="", width=1, depth=1, tasks=(), rungs=())
    with make_executor("process", workers=1, work=executor_work.obey) as executor:
        for term in ("echo", "hang"):
            executor.submit(TrialSpec(key=key, term=term, protocol=protocol, steps=0))
            for completion in executor.completed(timeout=60 if term == "echo" else 600):
                print(int(completion.measurement.metrics["pid"]), flush=True)
"""
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        os.kill(pid, 0)
        parent.kill()
    end = time.monotonic() + 10
    while _alive(pid):
        assert time.monotonic() < end, "the worker outlived its parent"
        time.sleep(0.02)


def _alive(pid: int) -> bool:
    """Whether a process runs; one that has ended and that nobody has buried does not."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    stat = Path(f"/proc/{pid}/stat")
    return not stat.exists() or stat.read_text().rpartition(")")[2].split()[0] != "Z"


def test_workers_that_cannot_start_are_the_environments_fault() -> None:
    class Corpse:
        def begin(self, spec: TrialSpec) -> None:
            raise AssertionError("a trial was given to a worker that was never ready")

        def kill(self) -> None:
            pass

    class Graveyard:
        start_seconds = math.inf

        def start(self) -> Corpse:
            return Corpse()

        def wait(self, workers: list[Corpse], *, timeout: float) -> list[tuple[Corpse, Message]]:
            return [(workers[0], Died("no module named torch"))]

        def close(self) -> None:
            pass

    pool = Pool(Graveyard(), workers=2)
    pool.submit(spec("echo"))
    with pytest.raises(EnvironmentProblem, match=r"no module named torch.*--executor inline"):
        pool.completed(timeout=10)


def test_trials_wait_for_readiness_and_keep_their_order() -> None:
    """A site by hand: one worker, whose messages are written here."""

    class Scripted:
        def __init__(self) -> None:
            self.got: list[str] = []
            self.messages: list[Message] = []

        def begin(self, spec: TrialSpec) -> None:
            self.got.append(spec.key.candidate)
            self.messages.append(Measurement(key=spec.key, score=0.0, metrics={}, environment={}, seconds=0.0))

        def kill(self) -> None:
            pass

    class Stage:
        start_seconds = math.inf

        def __init__(self) -> None:
            self.worker = Scripted()

        def start(self) -> Scripted:
            return self.worker

        def wait(self, workers: list[Scripted], *, timeout: float) -> list[tuple[Scripted, Message]]:
            return [(self.worker, self.worker.messages.pop(0))] if self.worker.messages else []

        def close(self) -> None:
            pass

    stage = Stage()
    pool = Pool(stage, workers=1)
    for number in range(3):
        pool.submit(spec("echo", number=number))
    assert pool.completed(timeout=0.0) == []
    assert stage.worker.got == []
    stage.worker.messages.append(Ready())
    for number in range(3):
        (completion,) = pool.completed(timeout=1.0)
        assert completion.spec.key.candidate == str(number)
    assert stage.worker.got == ["0", "1", "2"]


@pytest.mark.parametrize(
    ("kind", "arguments", "words"),
    [
        ("process", {"ray_address": "auto"}, "needs the executor 'ray'"),
        ("process", {"workers": -1}, "cannot be less than 0"),
        ("inline", {"gpus_per_worker": -0.5}, "cannot be less than 0"),
        ("ray", {"kernels": "triton"}, "Triton kernels need a GPU for each worker; set gpus_per_worker"),
    ],
)
def test_arguments_that_do_not_go_together(kind: ExecutorKind, arguments: dict[str, object], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        make_executor(kind, **arguments)


def test_a_missing_ray_is_reported_with_a_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(EnvironmentProblem, match="--executor process"):
        make_executor("ray")


def test_a_process_that_only_hands_out_trials_loads_neither_torch_nor_ray() -> None:
    script = """
import sys
from archloom.evaluator.executors import make_executor
make_executor("inline"); make_executor("process", workers=1).close()
print(sorted({"torch", "ray"} & sys.modules.keys()))
"""
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert (result.stdout, result.stderr) == ("[]\n", "")
