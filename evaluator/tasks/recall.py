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
from archloom.evaluator.task_kinds import dials, require
from archloom.evaluator.tasks.choosing import choose, subsets
from archloom.evaluator.tasks.interface import (
    EVALUATION_STREAM,
    IGNORED,
    TRAINING_STREAM,
    Batch,
    Tally,
    above_chance,
    parts,
)
from archloom.evaluator.tasks.ramps import grown

POWER = 0.01
"""Zoology's `power_a`: a query stands in slot i = 1, 2, ... with weight proportional to i^(POWER - 1)."""

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
        """Raises `ConfigError`."""
        given = dials(task)
        pairs = given.integer("pairs")
        keys, tokens = 2 * (pairs + 1), 4 * pairs
        require(
            task,
            (task.length % 2 == 0, f"the length is {task.length}: take an even one"),
            (task.length >= tokens, f"the length is {task.length}: pairs and queries take at least {tokens}"),
            (task.vocabulary >= keys, f"the vocabulary is {task.vocabulary}: keys and values take at least {keys}"),
        )
        return cls(
            vocabulary=task.vocabulary,
            length=task.length,
            batch=task.batch,
            pairs=pairs,
            ramp=given.number("ramp"),
            evaluation=given.integer("evaluation"),
        )

    def training_batch(self, step: int, *, total_steps: int, seed: int) -> Batch:
        """[batch, length], with as many pairs as the ramp has reached."""
        return self._draw(
            np.random.default_rng((TRAINING_STREAM, seed, step)),
            count=self.batch,
            pairs=grown(self.pairs, step=step, total_steps=total_steps, ramp=self.ramp),
        )

    def evaluation_batches(self) -> Sequence[Batch]:
        rng = np.random.default_rng((EVALUATION_STREAM, self.vocabulary, self.length, self.pairs))
        whole = self._draw(rng, count=self.evaluation, pairs=self.pairs)
        return parts(whole, self.batch)

    def metrics(self, tally: Tally) -> Mapping[str, float]:
        """`loss` in nats and `accuracy`, both over the queries."""
        return tally.numbers()

    def score(self, tally: Tally) -> float:
        """Accuracy above chance: max(0, (accuracy - 1/P) / (1 - 1/P))."""
        return above_chance(tally.accuracy, 1 / self.pairs)

    def _draw(self, rng: np.random.Generator, *, count: int, pairs: int) -> Batch:
        first_value = self.vocabulary // 2
        keys = 1 + subsets(rng, count, of=first_value - 1, size=pairs)
        values = first_value + subsets(rng, count, of=self.vocabulary - first_value, size=pairs)
        context = 2 * pairs
        slots = (self.length - context) // 2
        # The smallest of Exp(1) / weight are weighted draws without replacement (Efraimidis & Spirakis 2006).
        weights = np.arange(1, slots + 1, dtype=np.float64) ** (POWER - 1)
        queries = context + 2 * choose(rng.standard_exponential((count, slots)) / weights, pairs)

        inputs = np.zeros((count, self.length), dtype=np.int64)
        targets = np.full((count, self.length), IGNORED, dtype=np.int64)
        inputs[:, 0:context:2] = keys
        inputs[:, 1:context:2] = values
        np.put_along_axis(inputs, queries, keys, axis=1)
        np.put_along_axis(targets, queries, values, axis=1)
        return Batch(inputs=torch.from_numpy(inputs), targets=torch.from_numpy(targets))
