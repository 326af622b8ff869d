"""Bigram-backcopy, the toy task of Guo et al. 2024 (Active-dormant attention heads, arXiv:2410.13835, section 2).

A sequence opens with a start symbol. From an ordinary symbol u the next is drawn from row u of a fixed bigram matrix;
after a trigger the next is a copy of the symbol before the trigger. A softmax head that copies has nothing to do
elsewhere and rests on the start symbol: the task is where attention sinks are seen at their smallest.

The paper takes the letters of Shakespeare and their bigrams. Here the matrix is drawn once per setting of the dials,
so that nothing is read from disk: a trigger, any of them alike, comes with probability `share`, an ordinary symbol v
with probability (1 - share) Q[u, v], the rows of Q being draws of a symmetric Dirichlet distribution. Symbol 0 is the
start, [1, triggers] are triggers, the rest is ordinary. No trigger follows the start, so what is copied is ordinary.

Every position is scored, in two slices: `copied`, after a trigger, where an oracle's loss is 0, and `bigram`, where it
is that of the true probabilities. Who sees only the trigger can do no better at copied positions than the entropy of
the stationary distribution of Q, and that is chance.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
from numpy.typing import NDArray

from archloom.db.records import Task
from archloom.evaluator.task_kinds import dials, require
from archloom.evaluator.tasks.interface import EVALUATION_STREAM, TRAINING_STREAM, Batch, Tally, parts

CHAIN_STREAM = 2
"""First word of the seed of the bigram matrix."""

Reals = NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class BigramBackcopy:
    """Sequences of `length` symbols, each predicting the next; `concentration` is that of the rows of Q."""

    vocabulary: int
    length: int
    batch: int
    triggers: int
    share: float
    concentration: float
    evaluation: int
    ramp: float = 0.0
    solved: float | None = 0.95

    @classmethod
    def from_task(cls, task: Task) -> "BigramBackcopy":
        """Raises `ConfigError`."""
        given = dials(task)
        triggers = given.integer("triggers")
        symbols = 1 + triggers + 2
        require(
            task,
            (task.length >= 4, f"the length is {task.length}: copying a symbol takes at least 4"),
            (
                task.vocabulary >= symbols,
                f"the vocabulary is {task.vocabulary}: a start, the triggers and two ordinary symbols take at least "
                f"{symbols}",
            ),
        )
        runner = cls(
            vocabulary=task.vocabulary,
            length=task.length,
            batch=task.batch,
            triggers=triggers,
            share=given.number("share"),
            concentration=given.number("concentration"),
            evaluation=given.integer("evaluation"),
        )
        copied = any(batch.slices["copied"].any() for batch in runner.evaluation_batches())
        require(task, (copied, "no trigger comes in its evaluation set: raise its length, 'share' or 'evaluation'"))
        return runner

    def training_batch(self, step: int, *, total_steps: int, seed: int) -> Batch:
        """[batch, length]; `total_steps` plays no part."""
        return self._draw(np.random.default_rng((TRAINING_STREAM, seed, step)), count=self.batch)

    def evaluation_batches(self) -> Sequence[Batch]:
        rng = np.random.default_rng((EVALUATION_STREAM, self.vocabulary, self.length, self.triggers))
        return parts(self._draw(rng, count=self.evaluation), self.batch)

    def metrics(self, tally: Tally) -> Mapping[str, float]:
        """`loss` and `accuracy` over all; `copied_accuracy`; and `copied_excess` and `bigram_excess`, nats a position
        above the oracle's."""
        copied, bigram = tally.slices["copied"], tally.slices["bigram"]
        return {
            "loss": tally.loss,
            "accuracy": tally.accuracy,
            "copied_accuracy": copied.accuracy,
            "copied_excess": copied.loss,
            "bigram_excess": bigram.loss - oracle_loss(self),
        }

    def score(self, tally: Tally) -> float:
        """The part of chance's loss at copied positions that is saved: max(0, 1 - loss / entropy)."""
        return max(0.0, 1 - tally.slices["copied"].loss / entropy(stationary(self)))

    def _draw(self, rng: np.random.Generator, *, count: int) -> Batch:
        """Column by column, by inversion of each row's cumulative probabilities."""
        sums = np.cumsum(transitions(self), axis=1)
        draws = rng.random((self.length, count))
        symbols = np.zeros((self.length + 1, count), dtype=np.int64)
        triggered = np.zeros((self.length + 1, count), dtype=bool)
        for place in range(1, self.length + 1):
            before = symbols[place - 1]
            drawn = (sums[before] < draws[place - 1, :, None]).sum(axis=1)
            symbols[place] = np.where(triggered[place - 1], symbols[place - 2], np.minimum(drawn, self.vocabulary - 1))
            triggered[place] = (symbols[place] >= 1) & (symbols[place] <= self.triggers)
        copied = torch.from_numpy(np.ascontiguousarray(triggered[:-1].T))
        return Batch(
            inputs=torch.from_numpy(np.ascontiguousarray(symbols[:-1].T)),
            targets=torch.from_numpy(np.ascontiguousarray(symbols[1:].T)),
            slices={"copied": copied, "bigram": ~copied},
        )


@cache
def transitions(task: BigramBackcopy) -> Reals:
    """Probability of the next symbol given the last one, [V, V], the start's row included and the triggers' unused."""
    first, size = 1 + task.triggers, task.vocabulary
    rng = np.random.default_rng((CHAIN_STREAM, size, task.triggers))
    matrix = np.zeros((size, size))
    matrix[0, first:] = 1 / (size - first)
    matrix[first:, 1:first] = task.share / task.triggers
    matrix[first:, first:] = (1 - task.share) * rng.dirichlet([task.concentration] * (size - first), size - first)
    return matrix


@cache
def stationary(task: BigramBackcopy) -> Reals:
    """How often each symbol [V] stands before a trigger in a long sequence: the law of Q that a step leaves as it is.

    A trigger follows every ordinary symbol equally often and brings it back, so triggers do not change that law.
    """
    first = 1 + task.triggers
    chain = transitions(task)[first:, first:] / (1 - task.share)
    still = np.vstack([chain.T - np.eye(len(chain)), np.ones(len(chain))])
    law = np.linalg.lstsq(still, np.append(np.zeros(len(chain)), 1.0), rcond=None)[0]
    return np.append(np.zeros(first), np.maximum(law, 0.0))


def entropy(law: Reals) -> float:
    """In nats."""
    positive = law[law > 0]
    return float(-(positive * np.log(positive)).sum())


@cache
def oracle_loss(task: BigramBackcopy) -> float:
    """Mean loss in nats of the true probabilities at the bigram positions of the evaluation set."""
    surprise = np.log(transitions(task), where=transitions(task) > 0, out=np.zeros((task.vocabulary,) * 2))
    losses = [-surprise[b.inputs[b.slices["bigram"]], b.targets[b.slices["bigram"]]] for b in task.evaluation_batches()]
    return float(np.concatenate(losses).mean())
