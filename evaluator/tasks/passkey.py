"""Passkey retrieval at lengths beyond training, after Mohtashami & Jaggi 2023 (Landmark Attention, arXiv:2305.16300).

A text of filler holds, at a random depth, a marker and the digits of a key; at its end the marker comes once more and
the digits are asked for, one after the other:

    f f f M 4 0 7 f f f f f M [4] [0] [7]

The model is given all before the last digit; the target of the second marker is the first digit, and so on.
Symbols [0, 10) are digits, 10 is the marker, the rest is filler, drawn uniformly. Published prompts repeat one sentence
as filler; here a part `decoys` of the filler are digits, so that a key is known by its marker alone. Digits of a key
are independent: chance is 1/10.

Training is at `trained` tokens, evaluation at `trained`, twice, four times that and so on up to the record's length,
each length a slice `at_<tokens>`. The score is the mean over lengths, so it tells what holds beyond training.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch

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

DIGITS = 10
MARKER = 10
FIRST_FILLER = 11


@dataclass(frozen=True, slots=True, kw_only=True)
class Passkey:
    """A key of `digits` digits in a text that grows to `trained` tokens over the part `ramp` of training."""

    vocabulary: int
    length: int
    batch: int
    digits: int
    trained: int
    decoys: float
    ramp: float
    evaluation: int
    solved: float | None = 0.95

    @classmethod
    def from_task(cls, task: Task) -> "Passkey":
        """Raises `ConfigError`."""
        given = dials(task)
        digits, trained = given.integer("digits"), given.integer("trained")
        shortest = 2 * digits + 1
        require(
            task,
            (
                trained >= shortest,
                f"option 'trained' is {trained}: a key of {digits} digits, asked for, takes at least {shortest}",
            ),
            (
                task.length >= trained,
                f"the length is {task.length}: it is the longest text evaluated, so at least 'trained', {trained}",
            ),
            (
                task.vocabulary > FIRST_FILLER,
                f"the vocabulary is {task.vocabulary}: digits, a marker and filler take at least {FIRST_FILLER + 1}",
            ),
        )
        return cls(
            vocabulary=task.vocabulary,
            length=task.length,
            batch=task.batch,
            digits=digits,
            trained=trained,
            decoys=given.number("decoys"),
            ramp=given.number("ramp"),
            evaluation=given.integer("evaluation"),
        )

    @property
    def lengths(self) -> tuple[int, ...]:
        """Every length of the evaluation set, shortest first."""
        doublings = (self.length // self.trained).bit_length()
        return tuple(self.trained << doubling for doubling in range(doublings))

    def length_at(self, step: int, *, total_steps: int) -> int:
        """The shortest text at the first step, `trained` tokens once the ramp is over, linearly between."""
        shortest = 2 * self.digits + 1
        done = min(1.0, step / (self.ramp * total_steps)) if self.ramp else 1.0
        return shortest + int((self.trained - shortest) * done)

    def training_batch(self, step: int, *, total_steps: int, seed: int) -> Batch:
        """[batch, as many tokens as the ramp has reached]."""
        rng = np.random.default_rng((TRAINING_STREAM, seed, step))
        return self._draw(rng, count=self.batch, length=self.length_at(step, total_steps=total_steps))

    def evaluation_batches(self) -> Sequence[Batch]:
        return [batch for length in self.lengths for batch in parts(self._evaluated(length), self.batch)]

    def metrics(self, tally: Tally) -> Mapping[str, float]:
        """`loss` in nats and `accuracy` over all digits asked for, and `accuracy_at_<tokens>`."""
        by_length = {f"accuracy_at_{length}": tally.slices[f"at_{length}"].accuracy for length in self.lengths}
        return {**tally.numbers(), **by_length}

    def score(self, tally: Tally) -> float:
        """Accuracy above chance, 1/10, as a mean over the lengths."""
        found = [above_chance(tally.slices[f"at_{length}"].accuracy, 1 / DIGITS) for length in self.lengths]
        return sum(found) / len(found)

    def _evaluated(self, length: int) -> Batch:
        rng = np.random.default_rng((EVALUATION_STREAM, self.vocabulary, self.digits, length))
        whole = self._draw(rng, count=self.evaluation, length=length)
        return Batch(inputs=whole.inputs, targets=whole.targets, slices={f"at_{length}": whole.targets != IGNORED})

    def _draw(self, rng: np.random.Generator, *, count: int, length: int) -> Batch:
        filler = rng.integers(FIRST_FILLER, self.vocabulary, size=(count, length))
        decoys = rng.integers(DIGITS, size=(count, length))
        inputs = np.where(rng.random((count, length)) < self.decoys, decoys, filler)
        keys = rng.integers(DIGITS, size=(count, self.digits))
        asked = length - self.digits
        depth = rng.integers(asked - self.digits, size=(count, 1))
        np.put_along_axis(inputs, depth, MARKER, axis=1)
        np.put_along_axis(inputs, depth + 1 + np.arange(self.digits), keys, axis=1)
        inputs[:, asked] = MARKER
        inputs[:, asked + 1 :] = keys[:, :-1]
        targets = np.full((count, length), IGNORED, dtype=np.int64)
        targets[:, asked:] = keys
        return Batch(inputs=torch.from_numpy(inputs), targets=torch.from_numpy(targets))
