"""The worker boundary: one trial in, one measurement out, whatever happens.

This file has the one broad `except` of the project. A candidate that cannot be built, run or trained is a result like
any other; its traceback is kept. Torch is imported by the functions and not by the module, so that a process that only
hands trials to workers never loads it.
"""

import os
import pickle
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

from archloom.db.records import GATES, Failure, FailureKind, Measurement, Training, TrialSpec
from archloom.errors import EnvironmentProblem
from archloom.evaluator import memory

if TYPE_CHECKING:
    from archloom.evaluator.model import Model
    from archloom.evaluator.tasks import TaskRunner
    from archloom.evaluator.training import TrainingResult

MEASUREMENT_BYTES = 16 << 20
"""The largest measurement, pickled. A usual one has some thousand bytes."""

LETTERS = 100_000
"""What is kept of a failure's reason, from its beginning, and of its traceback, from its end."""

TOGETHER = frozenset({"cuda"})
"""Devices on which the learning rates of a grid are trained as one batched run. On the CPU that gains too little for
results that equal those of separate runs up to rounding only."""

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


def within_memory(spec: TrialSpec, *, work: Work, gib: float) -> Measurement:
    """Do `work` on a trial in a process that may hold `gib` GiB in all; raises what `work` raises."""
    with memory.limited(gib):
        return work(spec)


def run_trial(spec: TrialSpec, *, work: Work = measure) -> Measurement:
    """Do `work` on a trial and never raise an `Exception`: what goes wrong is a measurement with a failure.

    An `EnvironmentProblem` (missing text, no GPU) says nothing of the candidate and becomes `WORKER_LOST`, which is
    tried again; memory that is refused becomes `OUT_OF_MEMORY`; everything else, a measurement that cannot be sent
    included, becomes `ERROR`. A process that the work has forked ends here: only the worker itself answers.
    """
    started, process = time.monotonic(), os.getpid()
    try:
        measurement = work(spec)
        _require_sendable(measurement)
    except Exception as error:  # noqa: BLE001 - a failure is data
        failure = _failure(error)
        measurement = failed(spec, failure=failure, seconds=time.monotonic() - started, environment=_environment())
    if os.getpid() != process:
        os._exit(0)
    return measurement


def failed(
    spec: TrialSpec, *, failure: Failure, seconds: float, environment: Mapping[str, str] | None = None
) -> Measurement:
    """The measurement of a trial that came to nothing but its failure."""
    return Measurement(
        key=spec.key, score=None, metrics={}, environment=environment or {}, seconds=seconds, failure=failure
    )


def _failure(error: Exception) -> Failure:
    kind, reason = FailureKind.ERROR, f"{type(error).__name__}: {error}"
    if isinstance(error, EnvironmentProblem):
        kind, reason = FailureKind.WORKER_LOST, str(error)
    elif memory.is_refusal(error):
        kind = FailureKind.OUT_OF_MEMORY
    return Failure(kind=kind, reason=reason[:LETTERS], traceback=traceback.format_exc()[-LETTERS:])


def _require_sendable(measurement: Measurement) -> None:
    """Raise what pickling raises, or `ValueError` if the measurement is too large."""
    size = len(pickle.dumps(measurement))
    if size > MEASUREMENT_BYTES:
        raise ValueError(
            f"the measurement has {size} bytes, and at most {MEASUREMENT_BYTES} are kept: thin its series out"
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
    """Train once for every learning rate of the family's grid; the best final score counts, the first of equals."""
    import torch

    from archloom.evaluator.tasks import make_runner
    from archloom.kernels.backends import preferring
    from archloom.search_space.families import family
    from archloom.search_space.text import parse

    started = time.monotonic()
    if device == "cuda" and not torch.cuda.is_available():
        raise EnvironmentProblem("a trial was to run on a GPU and torch sees none here; set the GPUs per worker to 0")
    runner = make_runner(spec.protocol.task(spec.key.task))
    rates = spec.protocol.training.grid(family(parse(spec.term)))
    with preferring(kernels):
        runs = train_grid(spec, runner, rates=rates, deadline=started + spec.timeout_seconds, device=device)
    scores = [-1.0 if run.result.score is None else run.result.score for run in runs]
    chosen = scores.index(max(scores))
    run, best = runs[chosen], runs[chosen].result
    seconds = sum(run.result.seconds for run in runs)
    measured = {
        "model_parameters": float(sum(p.numel() for p in run.model.parameters())),
        "learning_rate": rates[chosen],
        "train_seconds": seconds,
    }
    if best.failure is None:
        measured["steps_per_second"] = sum(run.result.metrics.get("trained_steps", 0.0) for run in runs) / seconds
    return Measurement(
        key=spec.key,
        score=best.score,
        metrics={**best.metrics, **measured},
        series=best.series,
        environment=run.environment,
        seconds=time.monotonic() - started,
        failure=best.failure,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """One training run: the trained model, what it came to, and what that depends on beside its protocol."""

    model: "Model"
    result: "TrainingResult"
    environment: Mapping[str, str]


def train_grid(
    spec: TrialSpec, runner: "TaskRunner", *, rates: Sequence[float], deadline: float, device: str = "cpu"
) -> list[Run]:
    """Train the candidate at each of some learning rates, from the same weights and on the same data.

    On a device of `TOGETHER` all at once, which the runs' environment says: results are then equal to those of
    separate runs up to rounding, and a time limit that passes ends all of them. Elsewhere one after another, each as
    `train_once` would; the other arguments are its own.
    """
    if device not in TOGETHER or len(rates) == 1:
        return [train_once(spec, runner, learning_rate=each, deadline=deadline, device=device) for each in rates]
    from archloom.evaluator.model import build_model
    from archloom.evaluator.together import Replicate, train_together
    from archloom.evaluator.training import deterministic, environment

    protocol, seed = spec.protocol, spec.key.seed
    task = protocol.task(spec.key.task)
    with deterministic(seed, threads=protocol.threads):
        models = [build_model(spec.term, protocol=protocol, task=task, seed=seed).to(device) for _ in rates]
        results = train_together(
            [Replicate(model=model, seed=seed, learning_rate=each) for model, each in zip(models, rates, strict=True)],
            runner,
            training=protocol.training,
            steps=spec.steps,
            deadline=deadline,
            stopping=protocol.stopping,
        )
        surroundings = {**environment(device=device), "together": str(len(rates))}
    return [
        Run(model=model, result=result, environment=surroundings) for model, result in zip(models, results, strict=True)
    ]


def train_once(
    spec: TrialSpec, runner: "TaskRunner", *, learning_rate: float, deadline: float, device: str = "cpu"
) -> Run:
    """Build the candidate and train it at one learning rate, on the preferred kernels; raises whatever goes wrong.

    `runner` is that of the trial's task, `deadline` a reading of `time.monotonic()`. The same arguments give the same
    bits.
    """
    from archloom.evaluator.model import build_model
    from archloom.evaluator.training import deterministic, environment, train

    protocol, seed = spec.protocol, spec.key.seed
    with deterministic(seed, threads=protocol.threads):
        model = build_model(spec.term, protocol=protocol, task=protocol.task(spec.key.task), seed=seed).to(device)
        result = train(
            model,
            runner,
            training=replace(protocol.training, learning_rate=learning_rate),
            steps=spec.steps,
            seed=seed,
            deadline=deadline,
            stopping=protocol.stopping,
        )
        return Run(model=model, result=result, environment=environment(device=device))


def _environment() -> dict[str, str]:
    from archloom.evaluator.training import environment

    return environment()
