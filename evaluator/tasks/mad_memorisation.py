"""Memorisation, one of the six tasks of MAD (Poli et al. 2024, arXiv:2403.17844).

A sequence is `key mark key mark ...` with keys drawn uniformly, and at every mark the model must say the value that
goes with the key before it. The map from keys to values is one-to-one and the same in every sequence, of training and
of evaluation, so it is learnt in the weights: the context holds no value. Symbols [0, K) are keys, [K, 2K) values and
the last one is the mark, K = (vocabulary - 1) / 2 rounded down. The baseline of MAD is a vocabulary of 256 and 32
tokens. Departure: the map depends on the vocabulary alone and not on a seed of the run.

The mixer has only to look one token back; the map is in the embedding, the head and the channel mixer. Published
scores of this task correlate with language modelling with the wrong sign: it is for reading, not for ranking.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from archloom.db.records import Task
from archloom.evaluator.task_kinds import dials, require
from archloom.evaluator.tasks.interface import (
    EVALUATION_STREAM,
    IGNORED,
    TRAINING_STREAM,
    Batch,
    Tally,
    above_chance,
    parts,
)

MAP_STREAM = 2
"""First word of the seed of the map."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Memorisation:
    """Keys, each with a mark after it at which its value is asked for."""

    vocabulary: int
    length: int
    batch: int
    evaluation: int
    ramp: float = 0.0
    solved: float | None = 0.95

    @classmethod
    def from_task(cls, task: Task) -> "Memorisation":
        """Raises `ConfigError`."""
        require(
            task,
            (task.length % 2 == 0, f"the length is {task.length}: take an even one"),
            (task.vocabulary >= 5, f"the vocabulary is {task.vocabulary}: two keys, their values and a mark take 5"),
        )
        return cls(
            vocabulary=task.vocabulary,
            length=task.length,
            batch=task.batch,
            evaluation=dials(task).integer("evaluation"),
        )

    @property
    def keys(self) -> int:
        return (self.vocabulary - 1) // 2

    @property
    def values(self) -> NDArray[np.int64]:
        """The value of every key: [keys]."""
        return self.keys + np.random.default_rng((MAP_STREAM, self.vocabulary)).permutation(self.keys)

    def training_batch(self, step: int, *, total_steps: int, seed: int) -> Batch:
        """[batch, length]; `total_steps` plays no part."""
        return self._draw(np.random.default_rng((TRAINING_STREAM, seed, step)), count=self.batch)

    def evaluation_batches(self) -> Sequence[Batch]:
        rng = np.random.default_rng((EVALUATION_STREAM, self.vocabulary, self.length))
        return parts(self._draw(rng, count=self.evaluation), self.batch)

    def metrics(self, tally: Tally) -> Mapping[str, float]:
        """`loss` in nats and `accuracy`, both over the marks."""
        return tally.numbers()

    def score(self, tally: Tally) -> float:
        """Accuracy above that of a guess among the values."""
        return above_chance(tally.accuracy, 1 / self.keys)

    def _draw(self, rng: np.random.Generator, *, count: int) -> Batch:
        asked = rng.integers(self.keys, size=(count, self.length // 2))
        inputs = np.full((count, self.length), self.vocabulary - 1, dtype=np.int64)
        targets = np.full((count, self.length), IGNORED, dtype=np.int64)
        inputs[:, 0::2] = asked
        targets[:, 1::2] = self.values[asked]
        return Batch(inputs=torch.from_numpy(inputs), targets=torch.from_numpy(targets))
