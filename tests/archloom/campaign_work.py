"""Trials that cost nothing and fail as they are told, for tests of the campaign loop under fire. Workers import this by
name, so its folder goes on their path; it loads no torch, so that a worker starts in a moment.

`CAMPAIGN_WORK` names a folder. Every try at an evaluation leaves a file in it, which holds the worker's number; a file
of orders says what goes wrong.
"""

import hashlib
import json
import os
import signal
import time
from pathlib import Path

from archloom.db.records import EvaluationKey, Measurement, TrialSpec
from archloom.evaluator.executors import Executor
from archloom.evaluator.executors.pool import Pool

SECONDS = 0.03


def folder() -> Path:
    return Path(os.environ["CAMPAIGN_WORK"])


def name(key: EvaluationKey) -> str:
    return f"{key.candidate[:12]}-{key.task}-{key.rung}-{key.seed}"


def number(key: EvaluationKey) -> int:
    """A fixed number of an evaluation, by which orders choose their victims."""
    return int.from_bytes(hashlib.sha256(name(key).encode()).digest()[:4], "big")


def tries() -> dict[str, int]:
    """How often each evaluation was begun."""
    found: dict[str, int] = {}
    for file in folder().glob("*.try"):
        evaluation = file.name.split(".")[0]
        found[evaluation] = found.get(evaluation, 0) + 1
    return found


def order(**orders: object) -> None:
    """`every`: one evaluation in so many is a victim. `deaths`: its first so many tries kill the worker, then it hangs
    for `hang` seconds, once. `seconds`: how long a healthy trial takes."""
    draft = folder() / "draft.json"
    draft.write_text(json.dumps(orders))
    draft.replace(folder() / "orders.json")  # at once: a worker reads the old orders or the new ones


def prepare() -> None:
    """Nothing."""


def pretend(spec: TrialSpec) -> Measurement:
    """A score that depends on the evaluation alone, unless the orders say otherwise."""
    file = folder() / "orders.json"
    orders = json.loads(file.read_text()) if file.exists() else {}
    earlier = len(list(folder().glob(f"{name(spec.key)}.*.try")))
    (folder() / f"{name(spec.key)}.{earlier}.try").write_text(str(os.getpid()))
    if "every" in orders and number(spec.key) % orders["every"] == 0:
        if earlier < orders["deaths"]:
            os.kill(os.getpid(), signal.SIGKILL)
        if earlier == orders["deaths"]:
            time.sleep(orders.get("hang", 0.0))
    time.sleep(orders.get("seconds", SECONDS))
    score = number(spec.key) / 2**32
    return Measurement(key=spec.key, score=score, metrics={}, environment={}, seconds=SECONDS)


def make_executor(
    kind: str,
    *,
    workers: int,
    ray_address: str | None,
    gpus_per_worker: float,
    kernels: str,
    memory_gib: float | None,
) -> Executor:
    """In place of the evaluator's: pools of workers that only pretend."""
    if kind == "ray":
        from archloom.evaluator.executors.cluster import RaySite

        return Pool(RaySite(workers=workers, address=ray_address, work=pretend, prepare=prepare), workers=workers)
    from archloom.evaluator.executors.process import ProcessSite

    return Pool(ProcessSite(work=pretend, prepare=prepare), workers=workers, grace=0.2)
