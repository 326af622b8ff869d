"""Regression in context: a sequence shows pairs of a linear function, and the model predicts the function elsewhere.

`in_context_regression` is that of Garg et al. 2022 (arXiv:2208.01066, section 3). Inputs x_1, x_2, ... are standard
normal in `dimension` channels, and y_i = w.x_i with w standard normal over the root of the dimension, so that y has
variance 1. Tokens are x_1, y_1, x_2, y_2, ...: x in the first channels, y in the last one, zero elsewhere. The target
of x_i is y_i. Garg et al. leave w unscaled and train the dimension up: here it grows from 1 over the part `ramp`.

`test_time_regression` asks the same of a function that changes, after Local Linear Attention (Zuo et al. 2025,
arXiv:2510.01450) and Wang et al. 2025 (Test-time regression, arXiv:2501.12352), who see a mixer as a regression of
streamed values on keys. The form of the stream is chosen here: tokens come in twos, a pair to be stored, (key, value,
0), and a query, (key, 0, 1), whose target is the value that the function now has there. Values are W key, with
as many channels as keys, and W is normal over the root of the dimension. W is drawn anew at the start of each of
`pieces` pieces: piece j of n pairs starts at j n / pieces and, the first apart, a random part of half a piece later.
Nothing marks a change. No piece is shorter than the dimension, so a change shows in the first pair after it.

The oracle is least squares of smallest norm over what has been seen of the current piece: the posterior mean, since
functions and inputs are normal and values carry no noise. A score is the share of the way from 0 to the oracle.
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
from archloom.evaluator.tasks.ramps import grown

Reals = NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Stream:
    """Pairs of a function and places where it is asked.

    keys [B, N, K], values [B, N, V], queries [B, N, K], answers [B, N, V]. Query i may use the pairs of `usable`
    [B, N, N]. The oracle's predictions are a function of it.
    """

    keys: Reals
    values: Reals
    queries: Reals
    answers: Reals
    usable: NDArray[np.bool_]


def least_squares(stream: Stream) -> Reals:
    """Predictions of the answers [B, N, V] by least squares of smallest norm over the usable pairs."""
    seen = stream.keys[:, None] * stream.usable[..., None]
    weights: Reals = np.linalg.pinv(seen) @ stream.values[:, None]
    return (stream.queries[:, :, None] @ weights)[:, :, 0]


def explained(loss: float, *, zero: float, oracle: float) -> float:
    """The share of (zero - oracle) by which a mean squared error lies below that of predicting 0, in [0, 1]."""
    return min(1.0, max(0.0, (zero - loss) / (zero - oracle)))


@dataclass(frozen=True, slots=True, kw_only=True)
class Regression:
    """What the two tasks share: a stream in as many dimensions as the ramp has reached, laid out as tokens."""

    channels: int
    length: int
    batch: int
    dimension: int
    ramp: float
    evaluation: int
    solved: float | None = 0.95

    def training_batch(self, step: int, *, total_steps: int, seed: int) -> Batch:
        """[batch, length, channels], in as many dimensions as the ramp has reached."""
        dimension = grown(self.dimension, step=step, total_steps=total_steps, ramp=self.ramp)
        rng = np.random.default_rng((TRAINING_STREAM, seed, step))
        return self._laid_out(self._stream(rng, count=self.batch, dimension=dimension))

    def evaluation_batches(self) -> Sequence[Batch]:
        return parts(self._laid_out(self.evaluated()), self.batch)

    def evaluated(self) -> Stream:
        """What the evaluation set shows and asks."""
        rng = np.random.default_rng((EVALUATION_STREAM, self.channels, self.length, self._number))
        return self._stream(rng, count=self.evaluation, dimension=self.dimension)

    def metrics(self, tally: Tally) -> Mapping[str, float]:
        """`loss`, the mean squared error of a number, and `oracle_loss`."""
        return {"loss": tally.loss, "oracle_loss": bounds(self)[1]}

    def score(self, tally: Tally) -> float:
        """The share of what the oracle explains and 0 does not."""
        zero, oracle = bounds(self)
        return explained(tally.loss, zero=zero, oracle=oracle)

    @property
    def _number(self) -> int:
        """What tells evaluation sets apart beside channels and length."""
        raise NotImplementedError

    def _stream(self, rng: np.random.Generator, *, count: int, dimension: int) -> Stream:
        raise NotImplementedError

    def _laid_out(self, stream: Stream) -> Batch:
        raise NotImplementedError


@dataclass(frozen=True, slots=True, kw_only=True)
class InContextRegression(Regression):
    """Linear functions of `dimension` inputs, shown by length / 2 examples, in `channels` channels."""

    @classmethod
    def from_task(cls, task: Task) -> "InContextRegression":
        """Raises `ConfigError`."""
        given = dials(task)
        dimension = given.integer("dimension")
        require(
            task,
            (task.length % 2 == 0, f"the length is {task.length}: take an even one"),
            (
                task.length > 2 * dimension,
                f"the length is {task.length}: {dimension} unknowns take over {2 * dimension}",
            ),
            (
                task.vocabulary > dimension,
                f"the vocabulary is {task.vocabulary}: inputs and the output take at least {dimension + 1} channels",
            ),
        )
        return cls(
            channels=task.vocabulary,
            length=task.length,
            batch=task.batch,
            dimension=dimension,
            ramp=given.number("ramp"),
            evaluation=given.integer("evaluation"),
        )

    @property
    def _number(self) -> int:
        return self.dimension

    def _stream(self, rng: np.random.Generator, *, count: int, dimension: int) -> Stream:
        examples = self.length // 2
        keys = np.zeros((count, examples, self.dimension))
        keys[..., :dimension] = rng.standard_normal((count, examples, dimension))
        weights = rng.standard_normal((count, self.dimension, 1)) / np.sqrt(dimension)
        values = keys @ weights
        usable = np.broadcast_to(np.tri(examples, k=-1, dtype=bool), (count, examples, examples))
        return Stream(keys=keys, values=values, queries=keys, answers=values, usable=usable)

    def _laid_out(self, stream: Stream) -> Batch:
        count = len(stream.keys)
        inputs = np.zeros((count, self.length, self.channels), dtype=np.float32)
        targets = np.full_like(inputs, np.nan)
        inputs[:, 0::2, : self.dimension] = stream.keys
        inputs[:, 1::2, -1:] = stream.values
        targets[:, 0::2, -1:] = stream.answers
        return Batch(inputs=torch.from_numpy(inputs), targets=torch.from_numpy(targets))


@dataclass(frozen=True, slots=True, kw_only=True)
class TestTimeRegression(Regression):
    """A stream of length / 2 pairs, each followed by a query, of a linear map that changes pieces - 1 times."""

    __test__ = False

    pieces: int

    @classmethod
    def from_task(cls, task: Task) -> "TestTimeRegression":
        """Raises `ConfigError`."""
        given = dials(task)
        dimension, pieces = given.integer("dimension"), given.integer("pieces")
        channels, tokens = 2 * dimension + 1, 4 * pieces * dimension
        require(
            task,
            (
                task.length >= tokens and task.length % (2 * pieces) == 0,
                f"the length is {task.length}: {pieces} pieces in {dimension} dimensions take a multiple of "
                f"{2 * pieces} from {tokens} on",
            ),
            (
                task.vocabulary == channels,
                f"the vocabulary is {task.vocabulary}: keys, values and a mark take {channels} channels",
            ),
        )
        return cls(
            channels=task.vocabulary,
            length=task.length,
            batch=task.batch,
            dimension=dimension,
            pieces=pieces,
            ramp=given.number("ramp"),
            evaluation=given.integer("evaluation"),
        )

    @property
    def _number(self) -> int:
        return self.pieces

    def _stream(self, rng: np.random.Generator, *, count: int, dimension: int) -> Stream:
        pairs, size = self.length // 2, self.dimension
        spots = np.zeros((2, count, pairs, size))
        spots[..., :dimension] = rng.standard_normal((2, count, pairs, dimension))
        maps = np.zeros((count, self.pieces, size, size))
        drawn = rng.standard_normal((count, self.pieces, dimension, dimension))
        maps[..., :dimension, :dimension] = drawn / np.sqrt(dimension)
        even = pairs // self.pieces
        starts = even * np.arange(1, self.pieces) + rng.integers(even // 2 + 1, size=(count, self.pieces - 1))
        piece = (np.arange(pairs)[None, :, None] >= starts[:, None, :]).sum(axis=-1)
        now = np.take_along_axis(maps, piece[..., None, None], axis=1)
        values, answers = (np.einsum("bnvk,bnk->bnv", now, each) for each in spots)
        usable = (piece[:, :, None] == piece[:, None, :]) & np.tri(pairs, dtype=bool)
        return Stream(keys=spots[0], values=values, queries=spots[1], answers=answers, usable=usable)

    def _laid_out(self, stream: Stream) -> Batch:
        size = self.dimension
        inputs = np.zeros((len(stream.keys), self.length, self.channels), dtype=np.float32)
        targets = np.full_like(inputs, np.nan)
        inputs[:, 0::2, :size] = stream.keys
        inputs[:, 0::2, size : 2 * size] = stream.values
        inputs[:, 1::2, :size] = stream.queries
        inputs[:, 1::2, -1] = 1.0
        targets[:, 1::2, size : 2 * size] = stream.answers
        return Batch(inputs=torch.from_numpy(inputs), targets=torch.from_numpy(targets))


@cache
def bounds(task: Regression) -> tuple[float, float]:
    """Mean squared errors of predicting 0 and of the oracle, over the numbers of the evaluation set."""
    stream = task.evaluated()
    zero, oracle = (np.square(guess - stream.answers).mean() for guess in (0.0, least_squares(stream)))
    return float(zero), float(oracle)
