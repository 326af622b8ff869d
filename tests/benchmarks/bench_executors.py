"""What worker processes give and what running them costs, on real small trainings.

    python tests/benchmarks/bench_executors.py [scaling] [orchestration] [faults]

Scaling: candidates per hour with one worker and with two, in turns, so that what else the machine does falls on both.
Orchestration: a campaign of trials of about two seconds; the driver's processor time and the workers' idle time, each
as a share of the workers' time. Faults: how long it takes from a worker's death to its successor's first answer.
Figures are good only on a machine that does nothing else: its load is printed beside them.
"""

import os
import resource
import statistics
import sys
import tempfile
import time
from pathlib import Path

from archloom import campaign
from archloom.config import Config
from archloom.db.records import EvaluationKey, Protocol, Task, TrialSpec
from archloom.db.store import Store
from archloom.evaluator.executors import Executor, make_executor
from archloom.search_space import zoo

ROUNDS = 3
TRIALS = 8
"""For each worker and round."""

STEPS = 250
MQAR = Task(
    name="mqar",
    vocabulary=64,
    length=32,
    batch=64,
    options=(("evaluation", 512), ("kind", "mqar"), ("pairs", 8), ("ramp", 0.4)),
)

CAMPAIGN = """
[campaign]
name = "bench"
[budget]
candidates = {candidates}
[protocol]
width = 16
depth = 1
[[protocol.tasks]]
name = "mqar"
[[protocol.rungs]]
stages = [{{ task = "mqar", steps = {steps} }}]
[search]
baselines = ["mha", "linear_attention", "retnet"]
max_size = 24
[executor]
kind = "process"
workers = {workers}
"""


def load() -> str:
    return f"load {os.getloadavg()[0]:.1f} on {len(os.sched_getaffinity(0))} processors"


def spec(number: int) -> TrialSpec:
    term = zoo.load("mha", depth=1).text
    protocol = Protocol(version=2, grammar=1, reference=term, width=16, depth=1, tasks=(MQAR,), rungs=())
    key = EvaluationKey(candidate=str(number), task="mqar", rung=0, seed=number)
    return TrialSpec(key=key, term=term, protocol=protocol, steps=STEPS)


def run_all(executor: Executor, count: int) -> list[float]:
    """Seconds of each of `count` trials."""
    for number in range(count):
        executor.submit(spec(number))
    seconds: list[float] = []
    while len(seconds) < count:
        for completion in executor.completed(timeout=60):
            measurement = completion.measurement
            assert measurement is not None, completion.lost
            assert measurement.failure is None, measurement.failure
            seconds.append(measurement.seconds)
    return seconds


def scaling() -> None:
    ratios = []
    with make_executor("process", workers=1) as one, make_executor("process", workers=2) as two:
        run_all(one, 1)
        run_all(two, 2)
        for _ in range(ROUNDS):
            rates = []
            for executor in (one, two):
                started = time.monotonic()
                seconds = run_all(executor, TRIALS * executor.workers)
                rate = 3600 * len(seconds) / (time.monotonic() - started)
                rates.append(rate)
                median = statistics.median(seconds)
                print(
                    f"  {executor.workers} workers: {rate:6.0f} candidates/h, a trial {median:.2f} s; {load()}",
                    flush=True,
                )
            ratios.append(rates[1] / rates[0])
    print(f"scaling from 1 to 2 workers: {statistics.median(ratios):.2f} (of {', '.join(f'{r:.2f}' for r in ratios)})")


def orchestration() -> None:
    for workers in (1, 2):
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder, "bench.toml")
            file.write_text(CAMPAIGN.format(candidates=10 * workers, steps=STEPS, workers=workers))
            config = Config.load(str(file), [f'campaign.store="{folder}/bench.db"']).config
            with Store.open(config.campaign.store, create=True) as store:
                before = _processor_seconds()
                outcome = campaign.run(
                    config, store=store, resume=False, progress=lambda progress: None, stopping=lambda: 0
                )
                own = _processor_seconds() - before
                trials = [r for t in store.history("bench") for r in t.results]
        total = sum(result.seconds for result in trials)
        trained = [result.seconds for result in trials if result.key.task == "mqar" and result.ok]
        print(
            f"orchestration, {workers} workers: driver {own:.2f} s of processor for {total:.1f} s of trials, "
            f"{own / total:.1%}; workers idle {outcome.overhead:.1%}; {len(trials)} evaluations, a training "
            f"{statistics.median(trained):.2f} s; {load()}",
            flush=True,
        )


def _processor_seconds() -> float:
    """Of this process alone, whose workers are counted only when they have ended."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def faults() -> None:
    with make_executor("process", workers=1) as executor:
        run_all(executor, 1)
        waits = []
        for _ in range(ROUNDS):
            executor.submit(spec(0))
            executor.completed(timeout=0.2)
            os.kill(executor._seats[0].worker.pid, 9)  # type: ignore[attr-defined]
            started = time.monotonic()
            (completion,) = executor.completed(timeout=60)
            assert completion.lost is not None
            noticed = time.monotonic() - started
            (seconds,) = run_all(executor, 1)
            waits.append((noticed, time.monotonic() - started - seconds))
    noticed, replaced = (statistics.median(each) for each in zip(*waits, strict=True))
    print(
        f"faults: a killed worker is noticed after {noticed * 1000:.0f} ms, replaced after {replaced:.1f} s; {load()}"
    )


SECTIONS = {"scaling": scaling, "orchestration": orchestration, "faults": faults}

if __name__ == "__main__":
    for section in sys.argv[1:] or SECTIONS:
        SECTIONS[section]()
