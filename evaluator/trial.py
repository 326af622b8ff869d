"""The worker boundary: one trial in, one measurement out, whatever happens.

This file has the one broad `except` of the project. A candidate that cannot be built, run or trained is a result like
any other; its traceback is kept. Torch is imported by the functions and not by the module, so that a process that only
hands trials to workers never loads it.
"""

import time
import traceback
from collections.abc import Callable, Mapping
from typing import Literal

from archloom.db.records import GATES, Failure, FailureKind, Measurement, Training, TrialSpec
from archloom.errors import EnvironmentProblem

Kernels = Literal["chunked", "triton"]
"""Backends that trials run on."""

Work = Callable[[TrialSpec], Measurement]
"""What a worker does with a trial. It travels to workers by pickle: a function of an importable module, or a
`functools.partial` of one."""


def measure(spec: TrialSpec, *, device: str = "cpu", kernels: Kernels = "chunked") -> Measurement:
    """Run the gates, or build and train the candidate on `device` ("cpu" or "cuda"); raises whatever goes wrong.

    `kernels` is the backend that primitives are run on where they have it.
    """
    if spec.key.task != GATES:
        return _train(spec, device=device, kernels=kernels)
    from archloom.evaluator.gates import run_gates

    return run_gates(spec)


def run_trial(spec: TrialSpec, *, work: Work = measure) -> Measurement:
    """Do `work` on a trial and never raise an `Exception`: what goes wrong is a measurement with a failure.

    An `EnvironmentProblem` (missing text, no GPU) says nothing of the candidate and becomes `WORKER_LOST`, which is
    tried again; everything else becomes `ERROR`.
    """
    started = time.monotonic()
    try:
        return work(spec)
    except Exception as error:  # noqa: BLE001 - a failure is data
        lost = isinstance(error, EnvironmentProblem)
        failure = Failure(
            kind=FailureKind.WORKER_LOST if lost else FailureKind.ERROR,
            reason=str(error) if lost else f"{type(error).__name__}: {error}",
            traceback=traceback.format_exc(),
        )
        return failed(spec, failure=failure, seconds=time.monotonic() - started, environment=_environment())


def failed(
    spec: TrialSpec, *, failure: Failure, seconds: float, environment: Mapping[str, str] | None = None
) -> Measurement:
    """The measurement of a trial that came to nothing but its failure."""
    return Measurement(
        key=spec.key, score=None, metrics={}, environment=environment or {}, seconds=seconds, failure=failure
    )


def warm_up() -> None:
    """Import torch and take one training step, which loads what torch loads late: about two seconds, once a process.

    Memory is kept from now on: a long sequence would ask the system for fresh pages at every operation, a quarter of
    its time.
    """
    from torch import nn

    from archloom.db.records import Task
    from archloom.evaluator.tasks import make_runner
    from archloom.evaluator.training import deterministic, keep_memory, train

    keep_memory()
    task = Task(name="mqar", vocabulary=8, length=8, batch=2, options=(("evaluation", 2), ("pairs", 2)))
    with deterministic(0):
        model = nn.Sequential(nn.Embedding(8, 8), nn.Linear(8, 8))
        train(model, make_runner(task), training=Training(), steps=1, seed=0)


def _train(spec: TrialSpec, *, device: str, kernels: Kernels) -> Measurement:
    import torch

    from archloom.evaluator.model import build_model
    from archloom.evaluator.tasks import make_runner
    from archloom.evaluator.training import deterministic, environment, train
    from archloom.kernels.backends import preferring

    started = time.monotonic()
    if device == "cuda" and not torch.cuda.is_available():
        raise EnvironmentProblem("a trial was to run on a GPU and torch sees none here; set the GPUs per worker to 0")
    task = spec.protocol.task(spec.key.task)
    runner = make_runner(task)
    with deterministic(spec.key.seed, threads=spec.protocol.threads), preferring(kernels):
        model = build_model(spec.term, protocol=spec.protocol, task=task, seed=spec.key.seed).to(device)
        result = train(
            model,
            runner,
            training=spec.protocol.training,
            steps=spec.steps,
            seed=spec.key.seed,
            deadline=started + spec.timeout_seconds,
        )
        surroundings = environment(device=device)
    measured = {"model_parameters": float(sum(p.numel() for p in model.parameters())), "train_seconds": result.seconds}
    if result.failure is None:
        measured["steps_per_second"] = spec.steps / result.seconds
    return Measurement(
        key=spec.key,
        score=result.score,
        metrics={**result.metrics, **measured},
        series=result.series,
        environment=surroundings,
        seconds=time.monotonic() - started,
        failure=result.failure,
    )


def _environment() -> dict[str, str]:
    from archloom.evaluator.training import environment

    return environment()
