"""Selective copying and compression: two of the six tasks of MAD (Poli et al. 2024, arXiv:2403.17844).

Selective copying: `tokens` symbols stand at random places among blanks; after a mark, the model must say them in order,
one at each of as many blanks. Symbols [0, V-2) are copied, V-2 is the blank, V-1 the mark. MAD's baseline is 256
positions, 16 tokens, a vocabulary of 16. Departures: places are uniform (MAD's last symbol stands right before the
mark), and the number of tokens grows over training. A model that knows which symbols came but not in what order is
right as often as the commonest of them is: that is chance.

Compression: in MAD, T - 1 random symbols and a mark are read; the output at the mark, one vector, is added to a code of
each position i, and an MLP reads symbol i from the sum. The same squeeze, for a causal mixer with a linear head: inputs
are vectors, and at the mark alone the model must give *every* token back at once, token i in channels of its own. So
all that is known of the sequence passes through the one vector of D numbers that the head reads. Departures:

- A token is `bits` independent bits, each 1 or -1, where MAD has a symbol of 15; the mark itself is not asked for.
- The decoder is linear, without MLP and codes of positions, so the mixer must keep tokens apart by itself.
- The score is the part of the variance explained, where MAD has the accuracy. It is at most D / ((T - 1) * bits): bits
  are uncorrelated, so no D directions hold more.
- The last tokens are asked for first, all of them after the ramp.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

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

Chances = NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class SelectiveCopying:
    """`tokens` symbols among blanks, a mark, and as many blanks to say them at; tokens grow over the part `ramp`."""

    vocabulary: int
    length: int
    batch: int
    tokens: int
    ramp: float
    evaluation: int
    solved: float | None = 0.95

    @classmethod
    def from_task(cls, task: Task) -> "SelectiveCopying":
        """Raises `ConfigError`."""
        given = dials(task)
        tokens = given.integer("tokens")
        least = 2 * tokens + 1
        require(
            task,
            (task.length >= least, f"the length is {task.length}: to copy {tokens} tokens takes at least {least}"),
            (task.vocabulary >= 4, f"the vocabulary is {task.vocabulary}: two symbols, blank and mark take at least 4"),
        )
        return cls(
            vocabulary=task.vocabulary,
            length=task.length,
            batch=task.batch,
            tokens=tokens,
            ramp=given.number("ramp"),
            evaluation=given.integer("evaluation"),
        )

    @property
    def chance(self) -> float:
        """The accuracy of saying the commonest symbol throughout."""
        return expected_largest(self.tokens, boxes=self.vocabulary - 2) / self.tokens

    def training_batch(self, step: int, *, total_steps: int, seed: int) -> Batch:
        """[batch, length], with as many tokens as the ramp has reached."""
        tokens = grown(self.tokens, step=step, total_steps=total_steps, ramp=self.ramp)
        return self._draw(np.random.default_rng((TRAINING_STREAM, seed, step)), count=self.batch, tokens=tokens)

    def evaluation_batches(self) -> Sequence[Batch]:
        rng = np.random.default_rng((EVALUATION_STREAM, self.vocabulary, self.length, self.tokens))
        return parts(self._draw(rng, count=self.evaluation, tokens=self.tokens), self.batch)

    def metrics(self, tally: Tally) -> Mapping[str, float]:
        """`loss` in nats and `accuracy`, both over the tokens said."""
        return tally.numbers()

    def score(self, tally: Tally) -> float:
        """Accuracy above that of the commonest symbol."""
        return above_chance(tally.accuracy, self.chance)

    def _draw(self, rng: np.random.Generator, *, count: int, tokens: int) -> Batch:
        mark = self.length - self.tokens - 1
        said = rng.integers(self.vocabulary - 2, size=(count, tokens))
        places = np.sort(subsets(rng, count, of=mark, size=tokens), axis=1)
        inputs = np.full((count, self.length), self.vocabulary - 2, dtype=np.int64)
        targets = np.full((count, self.length), IGNORED, dtype=np.int64)
        np.put_along_axis(inputs, places, said, axis=1)
        inputs[:, mark] = self.vocabulary - 1
        targets[:, mark + 1 : mark + 1 + tokens] = said
        return Batch(inputs=torch.from_numpy(inputs), targets=torch.from_numpy(targets))


def expected_largest(draws: int, *, boxes: int) -> float:
    """The expected number of draws in the fullest box, each draw in one of the boxes with equal chances; exact.

    The boxes' counts are independent Poisson numbers given their sum (Levin 1981, Annals of Statistics 9:5).
    """
    counts, rate = np.arange(draws + 1), draws / boxes
    poisson = np.exp(counts * math.log(rate) - rate - np.array([math.lgamma(count + 1) for count in counts]))
    every = _sum_of(poisson, boxes)[draws]
    within = [_sum_of(np.where(counts <= bound, poisson, 0.0), boxes)[draws] for bound in range(draws)]
    return float(sum(1 - part / every for part in within))


def _sum_of(chances: Chances, number: int) -> Chances:
    """The chances [N] of 0 .. N-1 as the sum of `number` such counts, by squaring."""
    total: Chances = np.eye(len(chances))[0]
    while number:
        if number % 2:
            total = np.convolve(total, chances)[: len(chances)]
        chances = np.convolve(chances, chances)[: len(chances)]
        number //= 2
    return total


@dataclass(frozen=True, slots=True, kw_only=True)
class Compression:
    """`length` - 1 tokens of `bits` bits and a mark, at which all are asked for in `channels` channels.

    The first `bits` channels of the inputs are a token's bits, the next one is 1 at the mark.
    """

    channels: int
    length: int
    batch: int
    bits: int
    ramp: float
    evaluation: int
    solved: float | None = 0.95

    @classmethod
    def from_task(cls, task: Task) -> "Compression":
        """Raises `ConfigError`."""
        given = dials(task)
        bits = given.integer("bits")
        channels = max(bits + 1, bits * (task.length - 1))
        require(
            task,
            (task.length >= 2, f"the length is {task.length}: a token and the mark take at least 2"),
            (
                task.vocabulary >= channels,
                f"the vocabulary, its channels, is {task.vocabulary}: {task.length - 1} tokens of {bits} bits take "
                f"at least {channels}",
            ),
        )
        return cls(
            channels=task.vocabulary,
            length=task.length,
            batch=task.batch,
            bits=bits,
            ramp=given.number("ramp"),
            evaluation=given.integer("evaluation"),
        )

    def training_batch(self, step: int, *, total_steps: int, seed: int) -> Batch:
        """[batch, length, channels], with as many of the last tokens asked for as the ramp has reached."""
        asked = grown(self.length - 1, step=step, total_steps=total_steps, ramp=self.ramp)
        return self._draw(np.random.default_rng((TRAINING_STREAM, seed, step)), count=self.batch, asked=asked)

    def evaluation_batches(self) -> Sequence[Batch]:
        rng = np.random.default_rng((EVALUATION_STREAM, self.channels, self.length, self.bits))
        return parts(self._draw(rng, count=self.evaluation, asked=self.length - 1), self.batch)

    def metrics(self, tally: Tally) -> Mapping[str, float]:
        """`loss`: the mean squared error of a bit."""
        return {"loss": tally.loss}

    def score(self, tally: Tally) -> float:
        """The part of the bits' variance, which is 1, that is explained: max(0, 1 - loss)."""
        return max(0.0, 1 - tally.loss)

    def _draw(self, rng: np.random.Generator, *, count: int, asked: int) -> Batch:
        tokens = self.length - 1
        bits = 2 * rng.integers(2, size=(count, tokens, self.bits)) - 1
        inputs = np.zeros((count, self.length, self.channels), dtype=np.float32)
        targets = np.full((count, self.length, self.channels), np.nan, dtype=np.float32)
        inputs[:, :-1, : self.bits] = bits
        inputs[:, -1, self.bits] = 1
        first = (tokens - asked) * self.bits
        targets[:, -1, first : tokens * self.bits] = bits.reshape(count, -1)[:, first:]
        return Batch(inputs=torch.from_numpy(inputs), targets=torch.from_numpy(targets))
