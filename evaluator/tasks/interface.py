"""What a proxy task is to the training loop: batches, a tally of what the model did on them, and a score in [0, 1]."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from operator import itemgetter
from typing import Protocol

import torch
from torch import Tensor

IGNORED = -100
"""The target of a position that is not scored (the default `ignore_index` of `torch.nn.functional.cross_entropy`)."""

TRAINING_STREAM, EVALUATION_STREAM = 0, 1
"""First words of the two kinds of seeds, so that no run trains on the evaluation set."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """Symbols, or vectors where the task's kind says so.

    Symbols: `inputs` [B, T] int64 and `targets` [B, T] int64, `IGNORED` where nothing is scored. Vectors: `inputs`
    [B, T, C] float32 and `targets` [B, T, C] float32, NaN where nothing is scored. `source` [B, S] or [B, S, C] is what
    a cross pattern reads. `slices` name parts of the scored positions, each a mask [B, T], that are tallied apart too.
    """

    inputs: Tensor
    targets: Tensor
    source: Tensor | None = None
    slices: Mapping[str, Tensor] = field(default_factory=dict)

    @property
    def scored(self) -> Tensor:
        """Mask [B, T], or [B, T, C] of numbers where targets are vectors."""
        return ~torch.isnan(self.targets) if self.targets.is_floating_point() else self.targets != IGNORED

    def each(self, change: Callable[[Tensor], Tensor]) -> "Batch":
        """The batch with every tensor of it changed."""
        return Batch(
            inputs=change(self.inputs),
            targets=change(self.targets),
            source=None if self.source is None else change(self.source),
            slices={name: change(mask) for name, mask in self.slices.items()},
        )

    def to(self, device: torch.device) -> "Batch":
        return self.each(lambda tensor: tensor.to(device))


@dataclass(frozen=True, slots=True, kw_only=True)
class Tally:
    """Sums over scored positions: `total` of cross-entropy in nats, or of squared errors, how many were `correct` by
    argmax (none where targets are vectors), and how many `scored`. `slices` has the same of named parts."""

    total: float
    correct: int
    scored: int
    slices: Mapping[str, "Tally"] = field(default_factory=dict)

    @property
    def loss(self) -> float:
        """Mean cross-entropy in nats, or mean squared error; NaN if nothing was scored."""
        return self.total / self.scored if self.scored else float("nan")

    @property
    def accuracy(self) -> float:
        return self.correct / self.scored if self.scored else float("nan")

    def numbers(self) -> dict[str, float]:
        """`loss` and `accuracy`, by name."""
        return {"loss": self.loss, "accuracy": self.accuracy}


class TaskRunner(Protocol):
    """A task that can be trained on. It is a function of its record: all randomness comes from the arguments."""

    @property
    def batch(self) -> int:
        """Sequences in a training batch."""

    @property
    def ramp(self) -> float:
        """Share of the steps before which the task is easier than it will be: no curve is judged earlier."""

    @property
    def solved(self) -> float | None:
        """The score from which the task counts as solved, or None where no such score is meaningful."""

    def training_batch(self, step: int, *, total_steps: int, seed: int) -> Batch:
        """The batch of training step `step` in [0, total_steps): the same for the same three numbers."""

    def evaluation_batches(self) -> Sequence[Batch]:
        """The evaluation set: the same for every run. Batches may differ in length."""

    def metrics(self, tally: Tally) -> Mapping[str, float]:
        """The task's named numbers for a tally of the evaluation set."""

    def score(self, tally: Tally) -> float:
        """In [0, 1], higher is better, 0 at chance."""


def above_chance(accuracy: float, chance: float) -> float:
    """Accuracy as a part of what lies above chance: max(0, (accuracy - chance) / (1 - chance))."""
    return max(0.0, (accuracy - chance) / (1 - chance))


def parts(whole: Batch, size: int) -> list[Batch]:
    """A batch cut into batches of at most `size` sequences."""
    cuts = (slice(first, first + size) for first in range(0, len(whole.inputs), size))
    return [whole.each(itemgetter(cut)) for cut in cuts]
