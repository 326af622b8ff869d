"""Work for the executors' tests: workers import it by name, so its folder goes on their path."""

import os
import signal
import time

import torch
from torch import nn

from archloom.db.records import Measurement, Training, TrialSpec
from archloom.evaluator.tasks import make_runner
from archloom.evaluator.training import deterministic, environment, train


def obey(spec: TrialSpec) -> Measurement:
    """Do what the term of the trial says."""
    order, _, argument = spec.term.partition(" ")
    match order:
        case "echo":
            return _answer(spec, pid=float(os.getpid()), openmp=float(os.environ.get("OMP_NUM_THREADS", "0")))
        case "raise":
            raise ValueError(argument)
        case "die":
            os.kill(os.getpid(), signal.SIGKILL)
        case "leave":
            os._exit(int(argument))
        case "hang":
            time.sleep(600)
        case "train":
            return _train(spec)
    raise AssertionError(f"no such order: {spec.term!r}")


def _answer(spec: TrialSpec, **metrics: float) -> Measurement:
    return Measurement(key=spec.key, score=1.0, metrics=metrics, environment={}, seconds=0.0)


def _train(spec: TrialSpec) -> Measurement:
    task = spec.protocol.task(spec.key.task)
    with deterministic(spec.key.seed, threads=spec.protocol.threads):
        model = nn.Sequential(nn.Embedding(task.vocabulary, 16), Mean(), nn.Linear(16, task.vocabulary))
        deadline = time.monotonic() + spec.timeout_seconds
        result = train(
            model,
            make_runner(task),
            training=Training(),
            steps=spec.steps,
            seed=spec.key.seed,
            deadline=deadline,
        )
        surroundings = environment()
    return Measurement(
        key=spec.key,
        score=result.score,
        metrics=result.metrics,
        series=result.series,
        environment=surroundings,
        seconds=result.seconds,
        failure=result.failure,
    )


class Mean(nn.Module):
    """The mean of what came so far: [B, T, D] -> [B, T, D]."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        count = torch.arange(1, x.shape[1] + 1, dtype=x.dtype)[:, None]
        return x.cumsum(dim=1) / count
