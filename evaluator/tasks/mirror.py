"""A word and its copy, each with holes: the task for a mixer that sees a whole sequence, both ways (noncausal self).

A sequence of T tokens is a word of n different letters, some filler, the word again, and more filler. Up to `gap`
fillers, each number as likely as the others, stand between the copies, and n = (T - gap) / 2. A random choice of
`holes` places of the word is hidden, each in one of the copies; the model must say what every hole hides. Symbol 0 is
a hole, 1 is filler, and [2, V) are letters.

What a hole hides stands in the other copy, at a distance that changes from sequence to sequence, before it or behind
it. A fixed filter can only blend the distances there are; a mixer that matches what surrounds the hole with what
surrounds the copy finds the place, in either direction. A model that only counts knows which letters are seen once, and
is right once in `holes`: that is chance. The gap grows from none over the first part of training (dial `ramp`).

CAB (Zhang et al. 2023, arXiv:2210.07661) sorts the uses of attention by pattern, noncausal self among them. The task is
our own, and learnt in seconds.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from archloom.db.records import Task
from archloom.evaluator.task_kinds import dials, require
from archloom.evaluator.tasks.choosing import subsets
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

HOLE, FILLER, LETTERS = 0, 1, 2
"""Two symbols and the first letter."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Mirror:
    """Words of `word` letters, `gap` fillers and the word again, with `holes` of its places hidden in one copy."""

    vocabulary: int
    word: int
    gap: int
    batch: int
    holes: int
    ramp: float
    evaluation: int
    solved: float | None = 0.95

    @classmethod
    def from_task(cls, task: Task) -> "Mirror":
        """Raises `ConfigError`."""
        given = dials(task)
        gap, holes = given.integer("gap"), given.integer("holes")
        room, symbols = task.length - gap, LETTERS + (task.length - gap) // 2
        require(
            task,
            (room % 2 == 0, f"the length less the gap is {room}: take an even difference, so that two words fit"),
            (room >= 2 * holes, f"the length is {task.length}: {holes} holes take at least {2 * holes + gap}"),
            (task.vocabulary >= symbols, f"the vocabulary is {task.vocabulary}: the word takes at least {symbols}"),
        )
        return cls(
            vocabulary=task.vocabulary,
            word=room // 2,
            gap=gap,
            batch=task.batch,
            holes=holes,
            ramp=given.number("ramp"),
            evaluation=given.integer("evaluation"),
        )

    def training_batch(self, step: int, *, total_steps: int, seed: int) -> Batch:
        """[batch, 2 word + gap], with as wide a gap as the ramp has reached."""
        return self._draw(
            np.random.default_rng((TRAINING_STREAM, seed, step)),
            count=self.batch,
            gap=grown(self.gap + 1, step=step, total_steps=total_steps, ramp=self.ramp) - 1,
        )

    def evaluation_batches(self) -> Sequence[Batch]:
        rng = np.random.default_rng((EVALUATION_STREAM, self.vocabulary, self.word, self.gap, self.holes))
        return parts(self._draw(rng, count=self.evaluation, gap=self.gap), self.batch)

    def metrics(self, tally: Tally) -> Mapping[str, float]:
        """`loss` in nats and `accuracy`, both over the holes."""
        return tally.numbers()

    def score(self, tally: Tally) -> float:
        """Accuracy above chance, which is one in the number of holes."""
        return above_chance(tally.accuracy, 1 / self.holes)

    def _draw(self, rng: np.random.Generator, *, count: int, gap: int) -> Batch:
        words = LETTERS + subsets(rng, count, of=self.vocabulary - LETTERS, size=self.word)
        second = self.word + rng.integers(gap + 1, size=(count, 1))  # where the copy starts
        places = subsets(rng, count, of=self.word, size=self.holes)
        holes = places + second * rng.integers(2, size=places.shape)

        inputs = np.full((count, 2 * self.word + self.gap), FILLER, dtype=np.int64)
        targets = np.full_like(inputs, IGNORED)
        inputs[:, : self.word] = words
        np.put_along_axis(inputs, second + np.arange(self.word), words, axis=1)
        np.put_along_axis(inputs, holes, HOLE, axis=1)
        np.put_along_axis(targets, holes, np.take_along_axis(words, places, axis=1), axis=1)
        return Batch(inputs=torch.from_numpy(inputs), targets=torch.from_numpy(targets))
