"""One deterministic training loop for every proxy task: AdamW, clipped, at a rate that warms up, holds and decays.

Same model, task, seed, thread count and CPU capability: bit-identical results. Divergence and running out of time are
results of a run, not exceptions. A change to a constant of this file changes what a score means and needs a new
`Protocol.version`.
"""

import ctypes
import itertools
import math
import os
import platform
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from archloom.db.records import Failure, FailureKind, Series, Stopping, Training
from archloom.evaluator.divergence import origin_of_divergence
from archloom.evaluator.health import Recorder, averaged
from archloom.evaluator.stopping import Rule, stop
from archloom.evaluator.tasks.interface import Batch, Tally, TaskRunner
from archloom.kernels.backends import preferred

BETAS = (0.9, 0.95)
DECAYED = 0.25
"""The last part of the steps, over which the learning rate falls linearly to 0."""

EVALUATIONS = 10
EVALUATION_SHARE = 0.1
"""Evaluations are at most this part of the work of training, a training step counting as three forward passes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingResult:
    """What a run came to. `score` is None exactly when `failure` is set; `seconds` leaves evaluations out."""

    score: float | None
    metrics: Mapping[str, float]
    series: tuple[Series, ...]
    seconds: float
    failure: Failure | None = None


def train(
    model: nn.Module,
    runner: TaskRunner,
    *,
    training: Training,
    steps: int,
    seed: int,
    deadline: float | None = None,
    stopping: Stopping | None = None,
) -> TrainingResult:
    """Train `model` in place for `steps` steps, then evaluate it. It maps a batch's inputs, and under a cross pattern
    its source, to logits [B, T, vocabulary] or vectors [B, T, C].

    `seed` chooses the training data; `deadline` is a reading of `time.monotonic()`. A run that `stopping` ends early is
    evaluated as it is then. Fails as `DIVERGED`, with metric
    `diverged_step` (counted from 1), at the first loss or gradient norm that is not finite, and as `TIMEOUT` at the
    deadline. Raises `ValueError` for less than one step and whatever the model raises.

    Metrics: those of the task and of `health`, `trained_steps`, `area_under_curve` (mean of the score over all `steps`,
    by trapezoids from 0, the last score standing for what was not trained) and, where the task has a score that counts
    as solved, `steps_to_95`: the first evaluated step at or above it, inf if none.
    """
    if steps < 1:
        raise ValueError(f"training takes at least one step, got {steps}")
    device = next(model.parameters()).device
    evaluations = [batch.to(device) for batch in runner.evaluation_batches()]
    course = Course(model, runner, evaluations, steps=steps, stopping=stopping)
    optimizer = _optimizer(model, training=training)
    for step in range(steps):
        if deadline is not None and time.monotonic() > deadline:
            return course.late()
        started = time.perf_counter()
        for group in optimizer.param_groups:
            group["lr"] = training.learning_rate * rate(step, steps=steps, warmup=training.warmup)
        batch = runner.training_batch(step, total_steps=steps, seed=seed).to(device)
        loss, norm = _update(model, optimizer, batch=batch, clip=training.clip)
        result = course.stepped(loss, norm, batch=batch, seconds=time.perf_counter() - started)
        if result is None and step + 1 in course.evaluated_after:
            result = course.evaluated(evaluate(model, evaluations))
        if result is not None:
            return result
    raise AssertionError("the last step of a run is evaluated, which ends it")


def evaluate(model: nn.Module, batches: Sequence[Batch]) -> Tally:
    """Run `model` over `batches` in evaluation mode without gradients; it is left in training mode."""
    model.eval()
    with torch.no_grad():
        tally = tallied(batches, (answers(model, batch) for batch in batches))
    model.train()
    return tally


def tallied(batches: Sequence[Batch], outputs: Iterable[Tensor]) -> Tally:
    """The sums over some batches, for each of which a model said `outputs`."""
    sums: dict[str, list[float]] = {"": [0.0, 0, 0]}
    for batch, said in zip(batches, outputs, strict=True):
        at = batch.scored
        penalties, right = _judged(said[at], batch.targets[at])
        for name, mask in {"": torch.ones_like(at), **batch.slices}.items():
            chosen = (mask if mask.ndim == at.ndim else mask.unsqueeze(-1).expand_as(at))[at]
            found = (penalties[chosen].sum().item(), int(right[chosen].sum().item()), int(chosen.sum().item()))
            sums[name] = [sum(pair) for pair in zip(sums.get(name, (0.0, 0, 0)), found, strict=True)]
    tallies = {name: Tally(total=total, correct=int(good), scored=int(n)) for name, (total, good, n) in sums.items()}
    whole = tallies.pop("")
    return replace(whole, slices=tallies)


def _judged(said: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """The penalty of every scored position (or number), in float64, and whether it is right."""
    if targets.is_floating_point():
        return (said - targets).double().square(), torch.zeros_like(targets, dtype=torch.bool)
    return functional.cross_entropy(said, targets, reduction="none").double(), said.argmax(dim=-1) == targets


def answers(model: nn.Module, batch: Batch) -> Tensor:
    """What the model says of a batch: logits [B, T, vocabulary] or vectors [B, T, C]."""
    outputs: Tensor = model(batch.inputs) if batch.source is None else model(batch.inputs, source=batch.source)
    return outputs


def loss_of(outputs: Tensor, batch: Batch) -> Tensor:
    """Mean over the scored positions of the cross-entropy, or over the scored numbers of the squared error."""
    at = batch.scored
    if batch.targets.is_floating_point():
        return functional.mse_loss(outputs[at], batch.targets[at])
    return functional.cross_entropy(outputs[at], batch.targets[at])


def rate(step: int, *, steps: int, warmup: int) -> float:
    """The learning rate of a step in [0, steps) as a part of the full one, in (0, 1]."""
    rising = (step + 1) / warmup if warmup else 1.0
    falling = (steps - step) / max(1.0, DECAYED * steps)
    return min(1.0, rising, falling)


@contextmanager
def deterministic(seed: int, *, threads: int = 1) -> Iterator[None]:
    """Seed torch, fix its thread count and allow deterministic algorithms only; all of it is put back afterwards.

    Torch's filling of new memory, a part of its deterministic mode, is off: it costs a tenth of the speed of a proxy.
    Numbers too small for full precision count as zero: what has nearly decayed would take several times as long.
    """
    had_threads, had_denormals = torch.get_num_threads(), not _flushes_denormals()
    switches: Any = torch.utils.deterministic
    had_filling = switches.fill_uninitialized_memory
    had_deterministic = torch.are_deterministic_algorithms_enabled()
    had_warn_only = torch.is_deterministic_algorithms_warn_only_enabled()
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS repeats itself only with a fixed workspace
    devices = list(range(torch.cuda.device_count())) if torch.cuda.is_initialized() else []  # type: ignore[no-untyped-call]
    with torch.random.fork_rng(devices=devices):
        try:
            torch.set_num_threads(threads)
            torch.set_flush_denormal(True)
            torch.use_deterministic_algorithms(True)
            switches.fill_uninitialized_memory = False
            torch.manual_seed(seed)
            yield
        finally:
            torch.set_num_threads(had_threads)
            torch.set_flush_denormal(not had_denormals)
            torch.use_deterministic_algorithms(had_deterministic, warn_only=had_warn_only)
            switches.fill_uninitialized_memory = had_filling


def keep_memory() -> None:
    """Have this process keep the memory that it frees, up to 2 GiB, where the C library is glibc; elsewhere nothing.

    By default tensors of megabytes are given back to the system at once, and every new one is a thousand page faults.
    """
    if platform.libc_ver()[0] != "glibc":
        return
    libc = ctypes.CDLL(None)
    libc.mallopt(MALLOC_MMAP_THRESHOLD, 1 << 30)
    libc.mallopt(MALLOC_TRIM_THRESHOLD, (1 << 31) - 1)


MALLOC_TRIM_THRESHOLD, MALLOC_MMAP_THRESHOLD = -1, -3
"""Parameters of glibc's `mallopt`."""


def _flushes_denormals() -> bool:
    """Whether this thread's processor takes denormal numbers for zero; torch can set that and not tell it."""
    smallest = torch.tensor(torch.finfo(torch.float32).tiny)
    return bool(smallest / 2 == 0)


def environment(*, device: str = "cpu") -> dict[str, str]:
    """What a result depends on beside its protocol, as it is in this process now."""
    return {
        "torch": torch.__version__,
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "threads": str(torch.get_num_threads()),
        "device": torch.cuda.get_device_name() if device == "cuda" else device,
        "kernels": preferred(),
        "machine": platform.machine(),
        "host": platform.node(),
        "python": platform.python_version(),
    }


class Course:
    """What has happened in a run so far: a loss a step, a score by the step after which it was evaluated.

    It is told of every step and every evaluation, and answers with a result where that ends the run. It looks into
    `model` at evaluations and after a divergence. `evaluated_after` are the steps after which to evaluate.
    """

    def __init__(
        self,
        model: nn.Module,
        runner: TaskRunner,
        evaluations: Sequence[Batch],
        *,
        steps: int,
        stopping: Stopping | None,
    ) -> None:
        sequences = sum(len(batch.inputs) for batch in evaluations)
        self.evaluated_after = _evaluation_steps(steps, batch=runner.batch, sequences=sequences)
        self._model, self._runner, self._evaluations, self._steps = model, runner, evaluations, steps
        self._rule = _rule(stopping, runner)
        self._health = Recorder(steps=steps, batch=evaluations[0])
        self._losses: list[float] = []
        self._scores: dict[int, float] = {}
        self._seconds = 0.0

    def stepped(self, loss: float, norm: float, *, batch: Batch, seconds: float) -> TrainingResult | None:
        """After a training step on `batch`: a failure if the loss or the gradient's norm is not finite."""
        self._losses.append(loss)
        self._health.stepped(norm)
        self._seconds += seconds
        if math.isfinite(loss) and math.isfinite(norm):
            return None
        what = f"the training loss was {loss:.4g} and the gradient norm {norm:.4g}"
        device = next(self._model.parameters()).device
        return self._diverged(f"{what}; {_blame(self._model, [batch.to(device)])}")

    def evaluated(self, tally: Tally) -> TrainingResult | None:
        """After an evaluation at the present step: a failure, or the result where it was the last."""
        if not math.isfinite(tally.total):
            with torch.no_grad():
                origin = _blame(self._model, self._evaluations)
            return self._diverged(f"the evaluation loss was {tally.loss:.4g}; {origin}")
        step = len(self._losses)
        self._scores[step] = self._runner.score(tally)
        self._health.observe(self._model, step=step)
        early = self._rule and stop(self._scores, step=step, steps=self._steps, rule=self._rule)
        return self._finished(tally) if early or step == self._steps else None

    def late(self) -> TrainingResult:
        """The time limit passed."""
        after = f"after {len(self._losses)} of {self._steps} training steps"
        return self._failed(FailureKind.TIMEOUT, f"the time limit passed {after}")

    def _finished(self, tally: Tally) -> TrainingResult:
        metrics = {
            **self._health.metrics(),
            **self._runner.metrics(tally),
            "trained_steps": float(len(self._losses)),
            "area_under_curve": self._area(),
        }
        if self._runner.solved is not None:
            reached = (step for step, score in self._scores.items() if score >= self._runner.solved)
            metrics["steps_to_95"] = float(next(reached, math.inf))
        return TrainingResult(score=self._last, metrics=metrics, series=self._series(), seconds=self._seconds)

    def _diverged(self, what: str) -> TrainingResult:
        step = len(self._losses)
        reason = f"training diverged: at step {step} of {self._steps} {what}"
        return self._failed(FailureKind.DIVERGED, reason, metrics={"diverged_step": float(step)})

    def _failed(self, kind: FailureKind, reason: str, *, metrics: Mapping[str, float] | None = None) -> TrainingResult:
        return TrainingResult(
            score=None,
            metrics={**self._health.metrics(), **(metrics or {})},
            series=self._series(),
            seconds=self._seconds,
            failure=Failure(kind=kind, reason=reason),
        )

    @property
    def _last(self) -> float:
        return next(reversed(self._scores.values()))

    def _area(self) -> float:
        points = itertools.pairwise([(0, 0.0), *self._scores.items(), (self._steps, self._last)])
        return sum((end - start) * (before + after) / 2 for (start, before), (end, after) in points) / self._steps

    def _series(self) -> tuple[Series, ...]:
        """The training loss as means over stretches of steps, the score of every evaluation, and those of health."""
        return (
            averaged("training_loss", self._losses, steps=self._steps),
            Series(name="evaluation_score", steps=tuple(self._scores), values=tuple(self._scores.values())),
            *self._health.series(),
        )


def _rule(stopping: Stopping | None, runner: TaskRunner) -> Rule | None:
    if stopping is None:
        return None
    return Rule(
        ramp=runner.ramp,
        patience=stopping.patience,
        chance=stopping.chance,
        solved=None if runner.solved is None else stopping.solved,
        in_a_row=stopping.in_a_row,
    )


def _blame(model: nn.Module, batches: Sequence[Batch]) -> str:
    """What was the first thing that is not finite, in words."""
    for batch in batches:
        origin = origin_of_divergence(model, partial(_loss, model, batch))
        if origin is not None:
            return str(origin)
    return "taken once more, everything was finite"


def _loss(model: nn.Module, batch: Batch) -> Tensor:
    return loss_of(answers(model, batch), batch)


def _evaluation_steps(steps: int, *, batch: int, sequences: int) -> frozenset[int]:
    """Numbers of steps after which to evaluate, evenly spread: the last always, fewer where evaluating is dear."""
    affordable = int(EVALUATION_SHARE * 3 * steps * batch / sequences)
    count = max(1, min(EVALUATIONS, affordable))
    return frozenset(math.ceil(steps * part / count) for part in range(1, count + 1))


def _optimizer(model: nn.Module, *, training: Training) -> torch.optim.AdamW:
    """Weight decay is for matrices: biases, norms, decays and other vectors have none."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in parameters if p.ndim >= 2], "weight_decay": training.weight_decay},
        {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=training.learning_rate, betas=BETAS, fused=True)


def _update(model: nn.Module, optimizer: torch.optim.Optimizer, *, batch: Batch, clip: float) -> tuple[float, float]:
    """One step: the loss, and the gradient's norm before clipping; where that is not finite, nothing is changed."""
    loss = loss_of(answers(model, batch), batch)
    optimizer.zero_grad(set_to_none=True)
    torch.autograd.backward(loss)
    norm = nn.utils.clip_grad_norm_(model.parameters(), clip, foreach=True).item()
    if math.isfinite(norm):
        optimizer.step()
    return loss.item(), norm
