"""Two tasks for mixers that read one sequence to answer about another (cross), one for each kind of target.

The patterns are those of CAB (Zhang et al. 2023, arXiv:2210.07661); the tasks are our own, and learnt in seconds. Both
need a look at the neighbour of what is found, which the short convolutions of most mixers give.

`set_recall`, noncausal cross: the source is P pairs `k1 v1 k2 v2 ...` in random order; the target is their keys in
another random order, all answered at once with the key's value. Symbols [1, V/2) are keys, [V/2, V) values; no key and
no value occurs in two pairs. Guessing among the values is right once in P: that is chance. P grows from 1 over the
first part of training (dial `ramp`); what remains of the source and of the target is then 0.

`translation`, causal cross: the source is a sentence of n different words and a full stop (symbol 1). The target is the
sentence backwards, word by word through a fixed dictionary, given after the full stop and one token at a time, so that
the inputs are the full stop and all but the last of the answers. With V = 2 W + 2, [2, W + 2) are words and [W + 2, V)
their translations; the dictionary is one fixed shuffle. A model that translates but does not know the order can still
leave out what was said. It is right with probability 1 / (n - i + 1) at answer i, and (1 + 1/2 + ... + 1/n) / n over
all answers: that is chance. n grows from 1 over the ramp.
"""

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

STOP, WORDS = 1, 2
"""The full stop and the first word; 0 fills what remains."""

Symbols = NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True)
class SetRecall:
    """Values of `pairs` keys, asked all at once of a source that holds them in random order."""

    vocabulary: int
    pairs: int
    batch: int
    ramp: float
    evaluation: int
    solved: float | None = 0.95

    @classmethod
    def from_task(cls, task: Task) -> "SetRecall":
        """The pairs are as many as the record's length. Raises `ConfigError`."""
        given, symbols = dials(task), 2 * (task.length + 1)
        require(
            task,
            (task.length >= 2, f"the length is {task.length}: it is the number of pairs, take at least 2"),
            (task.vocabulary >= symbols, f"the vocabulary is {task.vocabulary}: pairs take at least {symbols} symbols"),
        )
        return cls(
            vocabulary=task.vocabulary,
            pairs=task.length,
            batch=task.batch,
            ramp=given.number("ramp"),
            evaluation=given.integer("evaluation"),
        )

    def training_batch(self, step: int, *, total_steps: int, seed: int) -> Batch:
        """Keys [batch, pairs] about a source [batch, 2 pairs], with as many pairs as the ramp has reached."""
        return self._draw(
            np.random.default_rng((TRAINING_STREAM, seed, step)),
            count=self.batch,
            pairs=grown(self.pairs, step=step, total_steps=total_steps, ramp=self.ramp),
        )

    def evaluation_batches(self) -> Sequence[Batch]:
        rng = np.random.default_rng((EVALUATION_STREAM, self.vocabulary, self.pairs))
        return parts(self._draw(rng, count=self.evaluation, pairs=self.pairs), self.batch)

    def metrics(self, tally: Tally) -> Mapping[str, float]:
        """`loss` in nats and `accuracy`, both over the keys."""
        return tally.numbers()

    def score(self, tally: Tally) -> float:
        """Accuracy above chance, which is one in the number of pairs."""
        return above_chance(tally.accuracy, 1 / self.pairs)

    def _draw(self, rng: np.random.Generator, *, count: int, pairs: int) -> Batch:
        first_value = self.vocabulary // 2
        keys = 1 + subsets(rng, count, of=first_value - 1, size=pairs)
        values = first_value + subsets(rng, count, of=self.vocabulary - first_value, size=pairs)
        order = subsets(rng, count, of=pairs, size=pairs)

        source = np.zeros((count, 2 * self.pairs), dtype=np.int64)
        source[:, 0 : 2 * pairs : 2], source[:, 1 : 2 * pairs : 2] = keys, values
        inputs = np.zeros((count, self.pairs), dtype=np.int64)
        targets = np.full((count, self.pairs), IGNORED, dtype=np.int64)
        inputs[:, :pairs] = np.take_along_axis(keys, order, axis=1)
        targets[:, :pairs] = np.take_along_axis(values, order, axis=1)
        return _batch(inputs, targets, source=source)


@dataclass(frozen=True, slots=True, kw_only=True)
class Translation:
    """Sentences of `words` different words, said backwards in another language."""

    vocabulary: int
    words: int
    batch: int
    ramp: float
    evaluation: int
    solved: float | None = 0.95

    @classmethod
    def from_task(cls, task: Task) -> "Translation":
        """A sentence has as many words as the record's length. Raises `ConfigError`."""
        given, symbols = dials(task), 2 * task.length + WORDS
        require(
            task,
            (task.length >= 2, f"the length is {task.length}: it is the number of words, take at least 2"),
            (task.vocabulary % 2 == 0, f"the vocabulary is {task.vocabulary}: take an even one, half of it a language"),
            (
                task.vocabulary >= symbols,
                f"the vocabulary is {task.vocabulary}: different words take {symbols} symbols",
            ),
        )
        return cls(
            vocabulary=task.vocabulary,
            words=task.length,
            batch=task.batch,
            ramp=given.number("ramp"),
            evaluation=given.integer("evaluation"),
        )

    @property
    def known(self) -> int:
        """How many words there are in a language."""
        return (self.vocabulary - WORDS) // 2

    @property
    def dictionary(self) -> Symbols:
        """The translation of word `WORDS + i` at place i, [known]; the same for every task of this vocabulary."""
        return WORDS + self.known + np.random.default_rng(self.vocabulary).permutation(self.known)

    def training_batch(self, step: int, *, total_steps: int, seed: int) -> Batch:
        """Inputs [batch, words] about a source [batch, words + 1], with as many words as the ramp has reached."""
        return self._draw(
            np.random.default_rng((TRAINING_STREAM, seed, step)),
            count=self.batch,
            words=grown(self.words, step=step, total_steps=total_steps, ramp=self.ramp),
        )

    def evaluation_batches(self) -> Sequence[Batch]:
        rng = np.random.default_rng((EVALUATION_STREAM, self.vocabulary, self.words))
        return parts(self._draw(rng, count=self.evaluation, words=self.words), self.batch)

    def metrics(self, tally: Tally) -> Mapping[str, float]:
        """`loss` in nats and `accuracy`, both over the answers."""
        return tally.numbers()

    def score(self, tally: Tally) -> float:
        """Accuracy above that of a model that translates without knowing the order."""
        return above_chance(tally.accuracy, sum(1 / left for left in range(1, self.words + 1)) / self.words)

    def _draw(self, rng: np.random.Generator, *, count: int, words: int) -> Batch:
        sentence = subsets(rng, count, of=self.known, size=words)
        said = self.dictionary[sentence[:, ::-1]]

        source = np.zeros((count, self.words + 1), dtype=np.int64)
        source[:, :words], source[:, words] = WORDS + sentence, STOP
        inputs = np.zeros((count, self.words), dtype=np.int64)
        targets = np.full((count, self.words), IGNORED, dtype=np.int64)
        inputs[:, 0], inputs[:, 1:words], targets[:, :words] = STOP, said[:, :-1], said
        return _batch(inputs, targets, source=source)


def _batch(inputs: Symbols, targets: Symbols, *, source: Symbols) -> Batch:
    return Batch(inputs=torch.from_numpy(inputs), targets=torch.from_numpy(targets), source=torch.from_numpy(source))
