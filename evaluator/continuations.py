"""Stories that a trained model goes on with, from beginnings that it was not trained on: text for a reader to judge.

A word is drawn from the model's law by a number that depends on the seed, the story and the place alone, so models of
one task have the same luck. Each word is a forward pass over all words before it: they are few, and it needs no
decode state.
"""

import re
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import assert_never

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from archloom.db.records import TrialSpec
from archloom.errors import ConfigError, EnvironmentProblem
from archloom.evaluator.tasks.stories import GeneratedStories, StoredStories, stories
from archloom.evaluator.tasks.story_files import END, UNKNOWN
from archloom.evaluator.tasks.story_grammar import WORDS
from archloom.evaluator.training import deterministic
from archloom.evaluator.trial import train_once
from archloom.kernels.backends import preferring

GAP = "_"
"""What stands in a text for a word that the model does not know."""

Runner = GeneratedStories | StoredStories


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampling:
    """How stories are told: `stories` of them, each from the first `beginning` words of a story that is held out, with
    `words` more at most, drawn at a temperature above 0."""

    stories: int
    beginning: int
    words: int
    temperature: float
    seed: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Story:
    """A beginning, and how a model trained with `seed` went on."""

    seed: int
    beginning: str
    continuation: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Language:
    """The word of each symbol; `unknown` is the symbol of all others, and `end` of a story's end, where there are."""

    words: tuple[str, ...]
    unknown: int | None = None
    end: int | None = None


def language(runner: Runner) -> Language:
    """The words of a task on stories."""
    match runner:
        case GeneratedStories():
            return Language(words=WORDS)
        case StoredStories():
            return Language(words=runner.words, unknown=UNKNOWN, end=END)
    assert_never(runner)


def beginnings(runner: Runner, *, count: int, words: int) -> Tensor:
    """The first words [count, words] of stories that no model is trained on: of the evaluation set where stories are
    generated, else of whole stories for validation, evenly spread.

    Errors: `ConfigError` if there are not so many.
    """
    match runner:
        case GeneratedStories():
            found = torch.cat([batch.inputs for batch in runner.evaluation_batches()])[:count, :words]
        case StoredStories():
            found = torch.from_numpy(_opened(runner.validation, count=count, words=words))
    if len(found) < count:
        raise ConfigError(
            f"{count} stories are asked for, and the task holds {len(found)} out that go on after {words} words; ask "
            "for fewer"
        )
    return found


def _opened(validation: NDArray[np.int64], *, count: int, words: int) -> NDArray[np.int64]:
    """The first words of at most `count` stories that have more than those."""
    ends = np.flatnonzero(validation == END)
    starts = np.concatenate([[0], ends[:-1] + 1])
    starts = starts[ends - starts > words]
    if len(starts) > count:
        starts = starts[np.linspace(0, len(starts) - 1, count).astype(np.int64)]
    opened: NDArray[np.int64] = validation[starts[:, None] + np.arange(words)]
    return opened


def continued(
    model: nn.Module, begun: Tensor, *, spoken: Language, words: int, temperature: float, luck: NDArray[np.float64]
) -> Tensor:
    """The `words` symbols [N, words] that follow `begun` [N, P], by numbers `luck` [N, words] in [0, 1).

    Only words of the language are drawn, and never the unknown one. The model is left in the mode that it was in.
    """
    mode, told = model.training, begun.to(next(model.parameters()).device)
    model.eval()
    with torch.no_grad():
        for place in range(words):
            logits = model(told)[:, -1].double().cpu() / temperature
            logits[:, len(spoken.words) :] = -torch.inf
            if spoken.unknown is not None:
                logits[:, spoken.unknown] = -torch.inf
            law = logits.softmax(dim=-1).cumsum(dim=-1)
            drawn = (law / law[:, -1:] <= torch.from_numpy(luck[:, place, None])).sum(dim=-1, keepdim=True)
            told = torch.cat([told, drawn.to(told)], dim=1)
    model.train(mode)
    return told[:, begun.shape[1] :].cpu()


def drawn_luck(seed: int, *, places: Sequence[int], words: int) -> NDArray[np.float64]:
    """Uniform numbers [stories, words] for the stories of these places."""
    return np.stack([np.random.default_rng((seed, place)).random(words) for place in places])


def written(symbols: Sequence[int], *, spoken: Language) -> str:
    """The text of symbols up to the end of the story, signs close to the words before them."""
    told = list(symbols)
    if spoken.end in told:
        told = told[: told.index(spoken.end)]
    words = (GAP if symbol == spoken.unknown else spoken.words[symbol] for symbol in told)
    return re.sub(r" (?=[.,!?;:](?: |$))", "", " ".join(words))


def tell(
    spec: TrialSpec, *, learning_rate: float, sampling: Sampling, places: Sequence[int]
) -> tuple[float, tuple[Story, ...]]:
    """Train a candidate again as a trial on stories says, and have it tell the stories of these places: its score, and
    the stories.

    Errors: `EnvironmentProblem` if training fails or cannot read its stories, `ConfigError` as `beginnings`.
    """
    runner = stories(spec.protocol.task(spec.key.task))
    begun = beginnings(runner, count=sampling.stories, words=sampling.beginning)[list(places)]
    with preferring("chunked"):
        run = train_once(spec, runner, learning_rate=learning_rate, deadline=time.monotonic() + spec.timeout_seconds)
        if run.result.score is None:
            reason = run.result.failure.reason if run.result.failure else "it has no score"
            raise EnvironmentProblem(
                f"seed {spec.key.seed} has a score on record and fails when it is trained again: {reason}\n"
                f"  → archloom replay {spec.key.candidate[:8]}"
            )
        with deterministic(sampling.seed, threads=spec.protocol.threads):
            told = continued(
                run.model,
                begun,
                spoken=language(runner),
                words=sampling.words,
                temperature=sampling.temperature,
                luck=drawn_luck(sampling.seed, places=places, words=sampling.words),
            )
    pairs = zip(begun.tolist(), told.tolist(), strict=True)
    spoken = language(runner)
    return run.result.score, tuple(
        Story(
            seed=spec.key.seed,
            beginning=written(before, spoken=spoken),
            continuation=written(after, spoken=spoken),
        )
        for before, after in pairs
    )
