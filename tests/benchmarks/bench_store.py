"""How fast is the ledger? Evaluations claimed and finished per second, each with two series of 20 points.

    python tests/benchmarks/bench_store.py [path or postgresql://…]

Also times opening, planning and reading the history. Without an argument the ledger is a file in a temporary folder.
"""

import hashlib
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

from archloom.db.records import (
    Campaign,
    CampaignState,
    Candidate,
    EvaluationKey,
    Measurement,
    Origin,
    Protocol,
    Rung,
    Series,
    Stage,
    Task,
    TrialSpec,
)
from archloom.db.store import Store

CANDIDATES, SEEDS = 200, 10
STEPS = tuple(range(0, 200, 10))
METRICS = {"loss": 1.5, "accuracy": 0.5, "parameters": 12000.0, "flops": 1e6, "state_bytes": 4096.0}
PROTOCOL = Protocol(
    version=1,
    grammar=1,
    reference="softmax",
    width=32,
    depth=1,
    tasks=(Task(name="mqar", vocabulary=64, length=32, batch=64),),
    rungs=(Rung(stages=(Stage(task="mqar", steps=250),)),),
)


def timed(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def answer(key: EvaluationKey) -> Measurement:
    series = tuple(
        Series(name=name, steps=STEPS, values=tuple(1 / (s + 1) for s in STEPS)) for name in ("loss", "rate")
    )
    environment = {"torch": "2.13.0", "cpu": "AVX2", "threads": "1"}
    return Measurement(key=key, score=0.5, metrics=METRICS, series=series, environment=environment, seconds=1.0)


def measure(location: str | Path) -> None:
    name = f"bench {time.time_ns()}"
    print(f"create or open       {1e3 * timed(lambda: Store.open(location, create=True).close()):8.1f} ms")
    print(f"open                 {1e3 * timed(lambda: Store.open(location).close()):8.1f} ms")
    with Store.open(location) as store:
        config = hashlib.sha256(b"{}").hexdigest()
        store.create_campaign(
            Campaign(
                name=name,
                config="{}",
                config_hash=config,
                protocol=PROTOCOL.id,
                seed=0,
                state=CampaignState.STOPPED,
                created=datetime.now(UTC),
            ),
            protocol=PROTOCOL,
        )
        candidates = [
            Candidate(id=hashlib.sha256(f"{name} {n}".encode()).hexdigest(), term="t", origin=Origin.RANDOM, index=n)
            for n in range(CANDIDATES)
        ]
        keys = [EvaluationKey(candidate=c.id, task="mqar", rung=0, seed=s) for c in candidates for s in range(SEEDS)]
        specs = [TrialSpec(key=key, term="t", protocol=PROTOCOL, steps=250) for key in keys]

        def add() -> None:
            for candidate in candidates:
                store.add_candidate(name, candidate)

        def run() -> None:
            for key in keys:
                attempt = store.claim(name, key, worker="bench", lease_seconds=60)
                assert attempt is not None
                assert store.finish(name, attempt, answer(key))

        print(f"add a candidate      {1e3 * timed(add) / len(candidates):8.2f} ms")
        print(f"plan an evaluation   {1e3 * timed(lambda: store.plan(name, specs)) / len(keys):8.2f} ms")
        seconds = timed(run)
        print(f"claim and finish one {1e3 * seconds / len(keys):8.2f} ms   {len(keys) / seconds:.0f} finishes/s")
        reading = timed(lambda: store.history(name))
        print(f"history              {1e3 * reading:8.1f} ms   {len(candidates)} candidates, {len(keys)} results")


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        measure(sys.argv[1] if len(sys.argv) > 1 else Path(folder) / "bench.db")
