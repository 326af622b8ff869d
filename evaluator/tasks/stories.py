"""Language modelling on little stories, judged on the words that only the story so far can tell.

Most of what a language model loses at small size any mixer loses alike; on recalled words mixers differ. So the score
is over the slice `recalled`: the part of chance's loss there that is saved. All words are evaluated.

With `source=generated` stories come from a grammar of our own (`story_grammar`), every training batch is new, and
which words are recalled is known. They are few, and learnt late where all words count alike: training counts all of
them and a random part `others` of the rest.

Otherwise `source` is a file or folder of stories (`story_files`), and training counts all words. A word is recalled
where Zoology says so (Arora et al. 2023, arXiv:2312.04927, section 3): the pair of it and the word before stood earlier
in the window, and is not one of the training text's most frequent pairs. Chance is what the training text's counts of
pairs, with those of single words mixed in as one occurrence, lose at those words.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray

from archloom.db.records import Task
from archloom.errors import ConfigError, EnvironmentProblem
from archloom.evaluator.task_kinds import dials, require
from archloom.evaluator.tasks.interface import EVALUATION_STREAM, IGNORED, TRAINING_STREAM, Batch, Tally, parts
from archloom.evaluator.tasks.story_files import END, UNKNOWN, encoded, load_stories
from archloom.evaluator.tasks.story_grammar import WORDS, introduction, tell

GENERATED = "generated"
"""The `source` that stands for the grammar; any other source is a path."""

Symbols = NDArray[np.int64]
Mask = NDArray[np.bool_]


def stories(task: Task) -> "GeneratedStories | StoredStories":
    """The runner that the task's `source` asks for.

    Raises `ConfigError`, and `EnvironmentProblem` if the stories cannot be read or are not those of the digest.
    """
    return (
        GeneratedStories.from_task(task) if dials(task).text("source") == GENERATED else StoredStories.from_task(task)
    )


def story_digest(source: str, *, tokens: int) -> str:
    """SHA-256 of the stories that the first `tokens` words of a source come from; "" for generated ones."""
    return "" if source == GENERATED else load_stories(source, tokens=tokens).digest


@dataclass(frozen=True, slots=True, kw_only=True)
class GeneratedStories:
    """Stories cut at `length` words and one more; their characters grow from one to `characters` over the part `ramp`
    of training, which counts the part `others` of the words that are not recalled."""

    vocabulary: int
    length: int
    batch: int
    characters: int
    others: float
    ramp: float
    evaluation: int
    solved: float | None = 0.95

    @classmethod
    def from_task(cls, task: Task) -> "GeneratedStories":
        """Raises `ConfigError`."""
        given = dials(task)
        characters, digest = given.integer("characters"), given.text("digest")
        told = introduction(characters)
        require(
            task,
            (
                task.vocabulary >= len(WORDS),
                f"the vocabulary is {task.vocabulary}: the grammar has {len(WORDS)} words, take at least so many",
            ),
            (
                task.length >= told,
                f"the length is {task.length}: a story of {characters} characters recalls after {told} words at most, "
                "take so many",
            ),
            (not digest, f"option 'digest' is {digest!r}: generated stories have none, leave it empty"),
        )
        return cls(
            vocabulary=task.vocabulary,
            length=task.length,
            batch=task.batch,
            characters=characters,
            others=given.number("others"),
            ramp=given.number("ramp"),
            evaluation=given.integer("evaluation"),
        )

    def training_batch(self, step: int, *, total_steps: int, seed: int) -> Batch:
        """[batch, length], with as many characters as the ramp has reached."""
        done = step / (self.ramp * total_steps) if self.ramp else 1.0
        characters = min(self.characters, 1 + int(self.characters * done))
        rng = np.random.default_rng((TRAINING_STREAM, seed, step))
        batch, _ = self._draw(rng, count=self.batch, characters=characters)
        counted = batch.slices["recalled"] | torch.from_numpy(rng.random(batch.targets.shape) < self.others)
        return replace(batch, targets=batch.targets.masked_fill(~counted, IGNORED))

    def evaluation_batches(self) -> Sequence[Batch]:
        return parts(self._evaluated()[0], self.batch)

    def metrics(self, tally: Tally) -> Mapping[str, float]:
        """As `story_metrics`."""
        return story_metrics(tally)

    def score(self, tally: Tally) -> float:
        """The part of chance's loss at recalled words that is saved."""
        return saved(tally, chance=self._evaluated()[1])

    def _evaluated(self) -> tuple[Batch, float]:
        rng = np.random.default_rng((EVALUATION_STREAM, self.length, self.characters))
        return self._draw(rng, count=self.evaluation, characters=self.characters)

    def _draw(self, rng: np.random.Generator, *, count: int, characters: int) -> tuple[Batch, float]:
        """Stories, and the mean loss of guessing at their recalled words."""
        words, costs = tell(rng, count=count, length=self.length + 1, characters=characters)
        recalled = costs > 0
        return _next_words(words, recalled=recalled[:, 1:]), float(costs[recalled].mean())


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredStories:
    """Windows of `length` words of stories on disk. `pairs` [P] are the training text's pairs of neighbours, sorted, as
    first * vocabulary + second, and `counts` [P] how often each occurs; those of `common` [C] are never recalled."""

    training: Symbols
    validation: Symbols
    words: tuple[str, ...]
    vocabulary: int
    length: int
    batch: int
    pairs: Symbols
    counts: Symbols
    common: Symbols
    evaluation: int
    ramp: float = 0.0
    solved: float | None = None

    @classmethod
    def from_task(cls, task: Task) -> "StoredStories":
        """Raises `EnvironmentProblem` for stories that are missing or not those of the digest, else `ConfigError`."""
        given = dials(task)
        require(task, (task.vocabulary > 2, f"the vocabulary is {task.vocabulary}: take at least 3"))
        corpus = load_stories(given.text("source"), tokens=given.integer("tokens"))
        digest = given.text("digest")
        if digest not in ("", corpus.digest):
            raise EnvironmentProblem(
                f"stories {corpus.source!r} of task {task.name!r} are not this protocol's: the SHA-256 of the first "
                f"{corpus.stories} is {corpus.digest}, the protocol has {digest}. Provide the same files, or start a "
                "campaign whose protocol has the new digest; the two scores are not comparable."
            )
        for name, part in (("training", corpus.training), ("validation", corpus.validation)):
            if len(part) <= task.length:
                raise ConfigError(
                    f"stories {corpus.source!r} leave {len(part)} words for {name}, and task {task.name!r} reads "
                    f"{task.length + 1} at once; raise the option `tokens`, name a longer text, or set a smaller length"
                )
        training, validation, words = encoded(corpus, vocabulary=task.vocabulary)
        pairs, counts = np.unique(_pairs(training, task.vocabulary), return_counts=True)
        by_count = np.argsort(-counts, kind="stable")
        runner = cls(
            training=training,
            validation=validation,
            words=words,
            vocabulary=task.vocabulary,
            length=task.length,
            batch=task.batch,
            pairs=pairs,
            counts=counts,
            common=pairs[by_count[: given.integer("common")]],
            evaluation=given.integer("evaluation"),
        )
        if not any(batch.slices["recalled"].any() for batch in runner.evaluation_batches()):
            raise ConfigError(
                f"stories {corpus.source!r} have no recalled word in the windows of task {task.name!r}; take longer "
                "windows or more of them, a lower option `common`, or a larger vocabulary"
            )
        return runner

    def training_batch(self, step: int, *, total_steps: int, seed: int) -> Batch:
        """[batch, length] at starts drawn uniformly, without slices; `total_steps` plays no part."""
        rng = np.random.default_rng((TRAINING_STREAM, seed, step))
        windows = self._windows(self.training, rng.integers(len(self.training) - self.length, size=self.batch))
        return Batch(inputs=torch.from_numpy(windows[:, :-1].copy()), targets=torch.from_numpy(windows[:, 1:].copy()))

    def evaluation_batches(self) -> Sequence[Batch]:
        last = len(self.validation) - self.length - 1
        starts = np.linspace(0, last, self.evaluation).astype(np.int64)
        chunks = (starts[first : first + self.batch] for first in range(0, self.evaluation, self.batch))
        windows = [self._windows(self.validation, chunk) for chunk in chunks]
        return [_next_words(each, recalled=self.recalled(each)) for each in windows]

    def recalled(self, windows: Symbols) -> Mask:
        """Which words from the second on [B, T] of windows [B, T + 1] are recalled: none beside an unknown word."""
        known, pairs = windows != UNKNOWN, _pairs(windows, self.vocabulary)
        repeated = ((pairs[:, :, None] == pairs[:, None, :]) & np.tri(pairs.shape[1], k=-1, dtype=bool)).any(axis=-1)
        rare = ~np.isin(pairs, self.common)
        mask: Mask = repeated & rare & known[:, :-1] & known[:, 1:] & (windows[:, 1:] != END)
        return mask

    def metrics(self, tally: Tally) -> Mapping[str, float]:
        """As `story_metrics`."""
        return story_metrics(tally)

    def score(self, tally: Tally) -> float:
        """The part of chance's loss at recalled words that is saved."""
        return saved(tally, chance=self.chance())

    def chance(self) -> float:
        """The mean loss in nats of the training text's counts at the recalled words of the evaluation set."""
        batches = self.evaluation_batches()
        kept = [(batch.inputs[batch.slices["recalled"]], batch.targets[batch.slices["recalled"]]) for batch in batches]
        before, after = (torch.cat(each).numpy() for each in zip(*kept, strict=True))
        wanted = before * self.vocabulary + after
        found = np.minimum(np.searchsorted(self.pairs, wanted), len(self.pairs) - 1)
        both = np.where(self.pairs[found] == wanted, self.counts[found], 0)
        single = np.bincount(self.training, minlength=self.vocabulary)
        law = (both + (single[after] + 1) / (single.sum() + self.vocabulary)) / (single[before] + 1)
        return float(-np.log(law).mean())

    def _windows(self, words: Symbols, starts: Symbols) -> Symbols:
        windows: Symbols = words[starts[:, None] + np.arange(self.length + 1)]
        return windows


def story_metrics(tally: Tally) -> Mapping[str, float]:
    """`loss` in nats and `accuracy` over all words, `recalled_loss` and `recalled_accuracy`."""
    recalled = tally.slices["recalled"]
    return {
        "loss": tally.loss,
        "accuracy": tally.accuracy,
        "recalled_loss": recalled.loss,
        "recalled_accuracy": recalled.accuracy,
    }


def saved(tally: Tally, *, chance: float) -> float:
    """max(0, 1 - loss / chance) over the recalled words."""
    return max(0.0, 1 - tally.slices["recalled"].loss / chance)


def _pairs(words: Symbols, vocabulary: int) -> Symbols:
    """Each word but the last and its next as one number: [..., N] -> [..., N - 1]."""
    pairs: Symbols = words[..., :-1] * vocabulary + words[..., 1:]
    return pairs


def _next_words(words: Symbols, *, recalled: Mask) -> Batch:
    """Words [B, T + 1] that each predict the next."""
    return Batch(
        inputs=torch.from_numpy(words[:, :-1].copy()),
        targets=torch.from_numpy(words[:, 1:].copy()),
        slices={"recalled": torch.from_numpy(recalled)},
    )
