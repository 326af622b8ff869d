"""Multi-query associative recall (MQAR), as defined in Zoology (Arora et al. 2023, arXiv:2312.04927, section 4).

A sequence opens with P pairs `k1 v1 k2 v2 ...`. Each key then comes once more, at an even distance from the end of the
pairs drawn by a power law, and the model must answer with the key's value there. Symbols [1, V/2) are keys, [V/2, V)
are values, and 0 fills what remains. No key and no value occurs in two pairs, so guessing among the values seen is
right once in P: that is chance.

Zoology trains at a fixed P. Small models then sit on a plateau before they learn to recall at all, and how long they
sit there hides what they could do: here P grows from 1 over the first part of training (option `ramp`).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from archloom.db.records import Task
from archloom.errors import ConfigError
from archloom.evaluator.tasks.interface import IGNORED, Batch, Tally, check_options, read_option

POWER = 0.01
"""Zoology's `power_a`: a query stands in slot i = 1, 2, ... with weight proportional to i^(POWER - 1)."""

TRAINING_STREAM, EVALUATION_STREAM = 0, 1
"""First words of the two kinds of seeds, so that no run trains on the evaluation set."""

Symbols = NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True)
class AssociativeRecall:
    """MQAR over `vocabulary` symbols and `length` tokens; P grows to `pairs` over the part `ramp` of training."""

    vocabulary: int
    length: int
    batch: int
    pairs: int
    ramp: float
    evaluation: int
    solved: float | None = 0.95

    @classmethod
    def from_task(cls, task: Task) -> "AssociativeRecall":
        """Options: `pairs` (8), `ramp` (0.4), `evaluation` (512 sequences). Raises `ConfigError`."""
        check_options(task, known=frozenset({"pairs", "ramp", "evaluation"}))
        pairs = read_option(task, "pairs", 8)
        ramp = read_option(task, "ramp", 0.4)
        evaluation = read_option(task, "evaluation", 512)
        keys, tokens = 2 * (pairs + 1), 4 * pairs
        rules = (
            (pairs >= 2, f"`pairs` is {pairs}: take at least 2, or chance is certainty"),
            (task.length % 2 == 0, f"the length is {task.length}: take an even one"),
            (task.length >= tokens, f"the length is {task.length}: pairs and queries take at least {tokens}"),
            (task.vocabulary >= keys, f"the vocabulary is {task.vocabulary}: keys and values take at least {keys}"),
            (0.0 <= ramp <= 1.0, f"`ramp` is {ramp}: take a part from 0 to 1"),
            (evaluation >= 1, f"`evaluation` is {evaluation}: take at least 1 sequence"),
        )
        if broken := [rule for kept, rule in rules if not kept]:
            raise ConfigError(f"task {task.name!r} cannot be drawn: {'; '.join(broken)}")
        return cls(
            vocabulary=task.vocabulary,
            length=task.length,
            batch=task.batch,
            pairs=pairs,
            ramp=ramp,
            evaluation=evaluation,
        )

    def training_batch(self, step: int, *, total_steps: int, seed: int) -> Batch:
        """[batch, length], with as many pairs as the ramp has reached."""
        return self._draw(
            np.random.default_rng((TRAINING_STREAM, seed, step)),
            count=self.batch,
            pairs=self.pairs_at(step, total_steps=total_steps),
        )

    def pairs_at(self, step: int, *, total_steps: int) -> int:
        """1 at the first step, `pairs` once `ramp * total_steps` steps are done, in equal stages between."""
        done = step / (self.ramp * total_steps) if self.ramp else 1.0
        return min(self.pairs, 1 + int(self.pairs * done))

    def evaluation_batches(self) -> Sequence[Batch]:
        rng = np.random.default_rng((EVALUATION_STREAM, self.vocabulary, self.length, self.pairs))
        whole = self._draw(rng, count=self.evaluation, pairs=self.pairs)
        parts = (slice(first, first + self.batch) for first in range(0, self.evaluation, self.batch))
        return [Batch(inputs=whole.inputs[part], targets=whole.targets[part]) for part in parts]

    def metrics(self, tally: Tally) -> Mapping[str, float]:
        """`loss` in nats and `accuracy`, both over the queries."""
        return {"loss": tally.loss, "accuracy": tally.accuracy}

    def score(self, tally: Tally) -> float:
        """Accuracy above chance: max(0, (accuracy - 1/P) / (1 - 1/P))."""
        chance = 1 / self.pairs
        return max(0.0, (tally.accuracy - chance) / (1 - chance))

    def _draw(self, rng: np.random.Generator, *, count: int, pairs: int) -> Batch:
        first_value = self.vocabulary // 2
        keys = 1 + _choose(rng.random((count, first_value - 1)), pairs)
        values = first_value + _choose(rng.random((count, self.vocabulary - first_value)), pairs)
        context = 2 * pairs
        slots = (self.length - context) // 2
        # The smallest of Exp(1) / weight are weighted draws without replacement (Efraimidis & Spirakis 2006).
        weights = np.arange(1, slots + 1, dtype=np.float64) ** (POWER - 1)
        queries = context + 2 * _choose(rng.standard_exponential((count, slots)) / weights, pairs)

        inputs = np.zeros((count, self.length), dtype=np.int64)
        targets = np.full((count, self.length), IGNORED, dtype=np.int64)
        inputs[:, 0:context:2] = keys
        inputs[:, 1:context:2] = values
        np.put_along_axis(inputs, queries, keys, axis=1)
        np.put_along_axis(targets, queries, values, axis=1)
        return Batch(inputs=torch.from_numpy(inputs), targets=torch.from_numpy(targets))


def _choose(draws: NDArray[np.float64], count: int) -> Symbols:
    """The columns of the `count` smallest draws of each row, smallest first: [B, N] -> [B, count]."""
    return np.argsort(draws, axis=1)[:, :count]
