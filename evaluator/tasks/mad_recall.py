"""In-context, noisy and fuzzy recall: three of the six tasks of MAD (Poli et al. 2024, arXiv:2403.17844).

A sequence has a dictionary of its own, of `pairs` keys and their values, and fills slots with pairs drawn from it with
replacement. Wherever a key comes again the model must answer with its value.

- in-context: a key is a symbol, a value is a symbol.
- noisy: a slot holds two symbols of noise instead, with probability `noise`.
- fuzzy: a key is a motif of 1 to `motif` different symbols and so is a value; keys share symbols, and where one ends is
  seen only where its value begins. Evaluation asks with keys of full length, as MAD does. Sequences are filled up on
  the left.

Symbols: the keys', then as many for values (one more where the number is odd), then the noise's, then the one that
fills up where motifs vary in length. MAD's baseline is 128 tokens and a vocabulary of 16, noisy 32 with a fifth of
noise, fuzzy with motifs of up to 3.

Departures from MAD, whose definitions are those of its code (github.com/athms/mad-lab, mad/data/instances.py):

- Values of different keys begin with different symbols, and the number of slots is fixed: chance is known exactly.
- MAD draws fuzzy keys afresh for every slot, and few come again; here they too come from a dictionary.
- Every next token is trained on in MAD, here only the answers are; and the number of pairs grows over training.
- The score counts the first symbol of each value. What follows it can be copied from what followed before, without the
  key.
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

Symbols = NDArray[np.int64]
Mask = NDArray[np.bool_]

NOTHING = -1
"""Where a motif, or a slot, has no symbol."""
OPENING = "opening"
"""The slice of the first symbols of values."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DictionaryRecall:
    """Slots of pairs from a dictionary of `pairs` pairs, which grows over the part `ramp` of training.

    `motif` is the most symbols in a key or value; `noise` is the share of slots that hold noise, of `noise_symbols`.
    """

    vocabulary: int
    length: int
    batch: int
    pairs: int
    motif: int
    noise: float
    noise_symbols: int
    ramp: float
    evaluation: int
    solved: float | None = 0.95

    @classmethod
    def in_context(cls, task: Task) -> "DictionaryRecall":
        """Raises `ConfigError`."""
        return cls._of(task, motif=1, noise=0.0, noise_symbols=0)

    @classmethod
    def noisy(cls, task: Task) -> "DictionaryRecall":
        """Raises `ConfigError`."""
        given = dials(task)
        return cls._of(task, motif=1, noise=given.number("noise"), noise_symbols=given.integer("noise_symbols"))

    @classmethod
    def fuzzy(cls, task: Task) -> "DictionaryRecall":
        """Raises `ConfigError`."""
        return cls._of(task, motif=dials(task).integer("motif"), noise=0.0, noise_symbols=0)

    @classmethod
    def _of(cls, task: Task, *, motif: int, noise: float, noise_symbols: int) -> "DictionaryRecall":
        given = dials(task)
        pairs = given.integer("pairs")
        symbols = 2 * max(pairs, motif) + noise_symbols + (motif > 1)
        tokens = 4 * motif * pairs
        require(
            task,
            (
                task.vocabulary >= symbols,
                f"the vocabulary is {task.vocabulary}: {pairs} pairs take at least {symbols} symbols",
            ),
            (motif > 1 or task.length % 2 == 0, f"the length is {task.length}: take an even one"),
            (
                task.length >= tokens,
                f"the length is {task.length}: to show {pairs} pairs and ask for them takes at least {tokens}",
            ),
        )
        return cls(
            vocabulary=task.vocabulary,
            length=task.length,
            batch=task.batch,
            pairs=pairs,
            motif=motif,
            noise=noise,
            noise_symbols=noise_symbols,
            ramp=given.number("ramp"),
            evaluation=given.integer("evaluation"),
        )

    @property
    def keys(self) -> int:
        """Symbols [0, keys) are of keys, [keys, values_end) of values."""
        return self.values_end // 2

    @property
    def values_end(self) -> int:
        return self.vocabulary - self.noise_symbols - (self.motif > 1)

    @property
    def slots(self) -> int:
        return self.length // (2 * self.motif)

    @property
    def chance(self) -> float:
        """The accuracy of the best guess among the values seen, blind to which key asks, exactly."""
        return blind_accuracy(slots=self.slots, pairs=self.pairs, noise=self.noise)

    def training_batch(self, step: int, *, total_steps: int, seed: int) -> Batch:
        """[batch, length], with as many pairs as the ramp has reached and keys of every length."""
        pairs = grown(self.pairs, step=step, total_steps=total_steps, ramp=self.ramp)
        rng = np.random.default_rng((TRAINING_STREAM, seed, step))
        return self._draw(rng, count=self.batch, pairs=pairs, shortest=1)

    def evaluation_batches(self) -> Sequence[Batch]:
        numbers = (self.vocabulary, self.length, self.pairs, self.motif, self.noise_symbols, round(1e6 * self.noise))
        rng = np.random.default_rng((EVALUATION_STREAM, *numbers))
        whole = self._draw(rng, count=self.evaluation, pairs=self.pairs, shortest=self.motif)
        return parts(whole, self.batch)

    def metrics(self, tally: Tally) -> Mapping[str, float]:
        """`loss` in nats and `accuracy` over all symbols of the answers, `accuracy_opening` over their first."""
        return {**tally.numbers(), "accuracy_opening": tally.slices[OPENING].accuracy}

    def score(self, tally: Tally) -> float:
        """Accuracy of the first symbols of the answers, above the best blind guess."""
        return above_chance(tally.slices[OPENING].accuracy, self.chance)

    def _draw(self, rng: np.random.Generator, *, count: int, pairs: int, shortest: int) -> Batch:
        shown, again = draw_slots(rng, count=count, slots=self.slots, pairs=pairs, noise=self.noise)
        keys = self._keys(rng, count=count, pairs=pairs, shortest=shortest)
        values = self._values(rng, count=count, pairs=pairs)
        entries = np.concatenate([keys, values], axis=2)
        tokens = np.take_along_axis(entries, np.maximum(shown, 0)[:, :, None], axis=1)
        if self.noise:
            noise = self.values_end + rng.integers(self.noise_symbols, size=tokens.shape)
            tokens = np.where((shown == NOTHING)[:, :, None], noise, tokens)

        place = np.arange(2 * self.motif)
        opening = again[:, :, None] & (place == self.motif)
        answer = again[:, :, None] & (place >= self.motif)
        return self._laid_out(tokens, answer=answer, opening=opening)

    def _keys(self, rng: np.random.Generator, *, count: int, pairs: int, shortest: int) -> Symbols:
        """[count, pairs, motif]: different keys of `shortest` to `motif` symbols, then `NOTHING`.

        A key that is there already is drawn again.
        """
        if self.motif == 1:
            return subsets(rng, count, of=self.keys, size=pairs)[:, :, None]
        keys = np.full((count, pairs, self.motif), NOTHING, dtype=np.int64)
        for pair in range(pairs):
            missing = np.arange(count)
            while len(missing):
                drawn = subsets(rng, len(missing), of=self.keys, size=self.motif)
                sizes = rng.integers(shortest, self.motif + 1, size=(len(missing), 1))
                drawn[np.arange(self.motif) >= sizes] = NOTHING
                known = (keys[missing, :pair] == drawn[:, None]).all(axis=2).any(axis=1)
                keys[missing[~known], pair] = drawn[~known]
                missing = missing[known]
        return keys

    def _values(self, rng: np.random.Generator, *, count: int, pairs: int) -> Symbols:
        """[count, pairs, motif]: values of 1 to `motif` different symbols, no two with the same first one."""
        symbols = self.values_end - self.keys
        first = subsets(rng, count, of=symbols, size=pairs)[:, :, None]
        if self.motif == 1:
            return self.keys + first
        others = 1 + choose(rng.random((count, pairs, symbols - 1)), self.motif - 1)
        values = self.keys + np.concatenate([first, (first + others) % symbols], axis=2)
        sizes = rng.integers(1, self.motif + 1, size=(count, pairs, 1))
        return np.where(np.arange(self.motif) < sizes, values, NOTHING)

    def _laid_out(self, tokens: Symbols, *, answer: Mask, opening: Mask) -> Batch:
        """The batch of slots [count, slots, places], some of them `NOTHING`: moved together to the right."""
        count = len(tokens)
        tokens = tokens.reshape(count, -1)
        held = tokens != NOTHING
        columns = self.length - held.sum(axis=1, keepdims=True) + held.cumsum(axis=1) - 1
        inputs = np.full((count, self.length), self.vocabulary - 1, dtype=np.int64)
        targets = np.full((count, self.length), IGNORED, dtype=np.int64)
        first = np.zeros((count, self.length), dtype=np.bool_)
        answered = held & answer.reshape(count, -1)
        opened = held & opening.reshape(count, -1)
        inputs[np.nonzero(held)[0], columns[held]] = tokens[held]
        targets[np.nonzero(answered)[0], columns[answered] - 1] = tokens[answered]  # asked for one token before
        first[np.nonzero(opened)[0], columns[opened] - 1] = True
        return Batch(
            inputs=torch.from_numpy(inputs),
            targets=torch.from_numpy(targets),
            slices={OPENING: torch.from_numpy(first)},
        )


def draw_slots(rng: np.random.Generator, *, count: int, slots: int, pairs: int, noise: float) -> tuple[Symbols, Mask]:
    """Which pair each slot shows, [count, slots] in [0, pairs) or `NOTHING`, and whether it was shown before.

    The first slot shows a pair, so does the last, one of those shown before, each as likely as another.
    """
    shown = rng.integers(pairs, size=(count, slots))
    shown[:, 1:][rng.random((count, slots - 1)) < noise] = NOTHING
    shown[:, -1] = NOTHING
    is_at = shown[:, :, None] == np.arange(pairs)
    seen = is_at.any(axis=1)
    shown[:, -1] = (rng.random(seen.shape) * seen).argmax(axis=1)
    firsts = np.where(seen, is_at.argmax(axis=1), slots)
    again = np.arange(slots) > np.take_along_axis(firsts, np.maximum(shown, 0), axis=1)
    return shown, again & (shown != NOTHING)


def blind_accuracy(*, slots: int, pairs: int, noise: float) -> float:
    """Of the pairs shown again, the share whose value is guessed right from the values seen so far alone.

    With m pairs seen, a slot shows a given one of them with probability (1 - noise) / pairs, so one of them with m
    times that, and one guess among m is right. In the last slot it is right once in m.
    """
    new = (1 - noise) / pairs
    seen = np.arange(pairs + 1)
    chances = np.eye(pairs + 1)[1]  # of having seen m pairs: one after the first slot
    right = asked = 0.0
    for _ in range(1, slots - 1):
        right += new
        asked += new * float(chances @ seen)
        rises = chances * (pairs - seen) * new
        chances = chances - rises + np.concatenate([[0.0], rises[:-1]])
    right += float(chances[1:] @ (1 / seen[1:]))
    return right / (asked + 1)
