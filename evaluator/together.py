"""Replicates of one architecture trained as one batched run: seeds, learning rates or both, each as `train` would.

Every replicate has its own weights, data, learning rate, clipping and curve. One that ends, solved, hopeless or
diverged, leaves the stack, and those that go on never notice: nothing in a step mixes replicates. Results equal those
of separate runs up to the rounding of sums that are made in another order, not bit by bit, and they repeat bit by bit
with the same replicates.

It is for devices that one small model leaves idle: eight replicates make 1.2 to 1.3 times the calls of one. On a core
of a CPU they were measured to take 7 times as long as one, little less than one after another. On a GPU nothing has
been measured yet: `python tests/benchmarks/bench_together.py --device cuda` would.
"""

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from archloom.db.records import Stopping, Training
from archloom.evaluator.stacked import Stacked
from archloom.evaluator.tasks.interface import IGNORED, Batch, TaskRunner
from archloom.evaluator.training import BETAS, Course, TrainingResult, rate, tallied

EPSILON = 1e-8
"""Of AdamW, PyTorch's default."""

CLIP_EPSILON = 1e-6
"""Of `clip_grad_norm_`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Replicate:
    """One of the runs: a model on its device, the seed of its training data, and its full learning rate."""

    model: nn.Module
    seed: int
    learning_rate: float


def train_together(
    replicates: Sequence[Replicate],
    runner: TaskRunner,
    *,
    training: Training,
    steps: int,
    deadline: float | None = None,
    stopping: Stopping | None = None,
) -> tuple[TrainingResult, ...]:
    """Train all models in place for `steps` steps, and give for each what `train` gives for one.

    `training` says all but the learning rate; the other arguments, metrics and failures are those of `train`. The
    `seconds` of a replicate are its equal share of each step that it took part in; the time limit ends all at once.

    Errors: `ValueError` for less than one step, no replicate, models that differ in structure, and seeds whose batches
    differ in shape. And whatever the model raises, of `torch.vmap` too.
    """
    if steps < 1:
        raise ValueError(f"training takes at least one step, got {steps}")
    run = _Run(replicates, runner, training=training, steps=steps, stopping=stopping)
    for step in range(steps):
        if not run.live:
            break
        if deadline is not None and time.monotonic() > deadline:
            run.end_late()
            break
        run.step(step)
        if run.live and step + 1 in run.evaluated_after:
            run.evaluate()
    return run.results()


class _Run:
    """The replicates that are `live`, by number, in the order of their rows in the stack."""

    def __init__(
        self,
        replicates: Sequence[Replicate],
        runner: TaskRunner,
        *,
        training: Training,
        steps: int,
        stopping: Stopping | None,
    ) -> None:
        self.live = list(range(len(replicates)))
        self._stack = Stacked([each.model for each in replicates])
        self._device = self._stack.weights.device
        self._replicates, self._runner, self._training, self._steps = replicates, runner, training, steps
        self._evaluations = [batch.to(self._device) for batch in runner.evaluation_batches()]
        self._courses = [
            Course(each.model, runner, self._evaluations, steps=steps, stopping=stopping) for each in replicates
        ]
        self.evaluated_after = self._courses[0].evaluated_after
        self._optimizer = AdamW(
            self._stack.weights,
            rates=[each.learning_rate for each in replicates],
            decayed=self._stack.matrices,
            weight_decay=training.weight_decay,
        )
        self._results: dict[int, TrainingResult] = {}

    def step(self, step: int) -> None:
        """One step of all that are live; those that diverge are left out before their weights change."""
        started = time.perf_counter()
        seeds = [self._replicates[number].seed for number in self.live]
        drawn = {seed: self._runner.training_batch(step, total_steps=self._steps, seed=seed) for seed in seeds}
        batch = side_by_side(drawn, seeds).to(self._device)
        apart = len(drawn) > 1
        losses = losses_of(self._stack.answers(batch.inputs, source=batch.source, apart=apart), batch.targets)
        (gradients,) = torch.autograd.grad(losses.sum(), self._stack.weights)
        norms = torch.linalg.vector_norm(gradients, dim=1)
        found = torch.stack([losses.detach(), norms]).T.tolist()
        numbers, stepped = self.live, [row for row, pair in enumerate(found) if all(map(math.isfinite, pair))]
        if len(stepped) < len(found):
            for row in {*range(len(found))} - {*stepped}:
                self._write(row)
            rows = self._keep(stepped)
            gradients, norms = gradients[rows], norms[rows]
        gradients *= (self._training.clip / (norms + CLIP_EPSILON)).clamp(max=1).unsqueeze(1)
        now = rate(step, steps=self._steps, warmup=self._training.warmup)
        self._optimizer.step(self._stack.weights, gradients, rate=now)
        seconds = (time.perf_counter() - started) / len(found)
        for number, seed, (loss, norm) in zip(numbers, seeds, found, strict=True):
            self._told(number, self._courses[number].stepped(loss, norm, batch=drawn[seed], seconds=seconds))

    def evaluate(self) -> None:
        """Evaluate all that are live, write their weights back, and leave out those that have ended."""
        self._stack.train(False)
        with torch.no_grad():
            said = [self._stack.answers(batch.inputs, source=batch.source) for batch in self._evaluations]
        self._stack.train()
        for row, number in enumerate(self.live):
            self._write(row)
            tally = tallied(self._evaluations, (outputs[row] for outputs in said))
            self._told(number, self._courses[number].evaluated(tally))
        self._keep([row for row, number in enumerate(self.live) if number not in self._results])

    def end_late(self) -> None:
        """The time limit passed."""
        for row, number in enumerate(self.live):
            self._write(row)
            self._told(number, self._courses[number].late())

    def results(self) -> tuple[TrainingResult, ...]:
        return tuple(self._results[number] for number in range(len(self._replicates)))

    def _told(self, number: int, result: TrainingResult | None) -> None:
        if result is not None:
            self._results[number] = result

    def _write(self, row: int) -> None:
        self._stack.write(row, self._replicates[self.live[row]].model)

    def _keep(self, rows: list[int]) -> Tensor:
        """Leave all rows but some out of the stack; these rows as a tensor."""
        kept = torch.tensor(rows, dtype=torch.long, device=self._device)
        if len(rows) < len(self.live):
            self.live = [self.live[row] for row in rows]
            self._stack.keep(kept)
            self._optimizer.keep(kept)
        return kept


class AdamW:
    """`torch.optim.AdamW` over the rows of a matrix [R, P], each with a learning rate of its own.

    Columns in `decayed` [P] of bool have the weight decay, the others none.
    """

    def __init__(self, weights: Tensor, *, rates: Sequence[float], decayed: Tensor, weight_decay: float) -> None:
        self._rates = torch.tensor(rates, dtype=weights.dtype, device=weights.device).unsqueeze(1)
        self._decay = weight_decay * decayed.to(weights.dtype)
        self._mean, self._square = (torch.zeros_like(weights, requires_grad=False) for _ in range(2))
        self._steps = 0

    def step(self, weights: Tensor, gradients: Tensor, *, rate: float) -> None:
        """Change `weights` in place; `rate` is a part of the full learning rates."""
        self._steps += 1
        first, second = BETAS
        rates = self._rates * rate
        self._mean.lerp_(gradients, 1 - first)
        self._square.mul_(second).addcmul_(gradients, gradients, value=1 - second)
        root = (self._square / (1 - second**self._steps)).sqrt_().add_(EPSILON)
        with torch.no_grad():
            weights.mul_(1 - rates * self._decay)
            weights.sub_(rates / (1 - first**self._steps) * self._mean / root)

    def keep(self, rows: Tensor) -> None:
        """Leave out all rows but some."""
        self._rates, self._mean, self._square = (each[rows] for each in (self._rates, self._mean, self._square))


def losses_of(outputs: Tensor, targets: Tensor) -> Tensor:
    """`loss_of` for each of R replicates, [R]; outputs [R, B, T, C], targets [R, B, T(, C)] or the same [B, T(, C)]."""
    count = len(outputs)
    if targets.is_floating_point():
        at = ~torch.isnan(targets)
        penalties = torch.where(at, outputs - torch.where(at, targets, 0), 0).square()
        scored = at.expand_as(outputs)
    else:
        targets = targets.expand(outputs.shape[:-1])
        penalties = functional.cross_entropy(
            outputs.flatten(0, -2), targets.flatten(), ignore_index=IGNORED, reduction="none"
        )
        scored = targets != IGNORED
    return penalties.reshape(count, -1).sum(1) / scored.reshape(count, -1).sum(1)


def side_by_side(drawn: dict[int, Batch], seeds: Sequence[int]) -> Batch:
    """The batch of each seed in turn, [R, B, ...]; the batch itself where they all have one.

    Errors: `ValueError` for batches that differ in shape.
    """
    first = drawn[seeds[0]]
    if len(drawn) == 1:
        return first
    shapes = {tuple(batch.inputs.shape) for batch in drawn.values()}
    if len(shapes) > 1:
        raise ValueError(f"batches of seeds {sorted(drawn)} have shapes {sorted(shapes)}; train these seeds one by one")
    batches = [drawn[seed] for seed in seeds]
    return Batch(
        inputs=torch.stack([each.inputs for each in batches]),
        targets=torch.stack([each.targets for each in batches]),
        source=None if first.source is None else torch.stack([e.source for e in batches if e.source is not None]),
    )
