"""Set recall and translation: every sequence against the definition, by plain loops; solvers, guessers, bad dials."""

from collections.abc import Callable
from dataclasses import replace
from random import Random

import pytest
import torch
from torch import Tensor, nn

from archloom.db.records import Task
from archloom.errors import ConfigError
from archloom.evaluator.tasks import IGNORED, Batch, make_runner
from archloom.evaluator.training import evaluate

RECALL = Task(name="set_recall", vocabulary=32, length=8, batch=64)
TRANSLATION = Task(name="translation", vocabulary=34, length=8, batch=64)
Answer = Callable[[list[int], list[int]], list[int]]


class Answering(nn.Module):
    """A model that says what a plain function says of each target sequence and its source."""

    def __init__(self, answer: Answer, vocabulary: int) -> None:
        super().__init__()
        self.answer, self.vocabulary = answer, vocabulary

    def forward(self, inputs: Tensor, *, source: Tensor) -> Tensor:
        said = torch.tensor([self.answer(*pair) for pair in zip(inputs.tolist(), source.tolist(), strict=True)])
        return nn.functional.one_hot(said, self.vocabulary).float() * 50


def score(task: Task, answer: Answer) -> float:
    runner = make_runner(task)
    return runner.score(evaluate(Answering(answer, task.vocabulary), runner.evaluation_batches()))


def rows(batch: Batch) -> list[tuple[list[int], list[int], list[int]]]:
    assert batch.source is not None
    return list(zip(batch.inputs.tolist(), batch.source.tolist(), batch.targets.tolist(), strict=True))


def look_up(keys: list[int], source: list[int]) -> list[int]:
    values = dict(zip(source[0::2], source[1::2], strict=True))
    return [values.get(key, 0) for key in keys]


def check_recall(batch: Batch, *, pairs: int, of: int = 8) -> None:
    for inputs, source, targets in rows(batch):
        assert len(inputs) == of
        assert len(source) == 2 * of
        keys, values = source[0 : 2 * pairs : 2], source[1 : 2 * pairs : 2]
        assert len(set(keys)) == len(set(values)) == pairs
        assert all(1 <= key < 16 for key in keys)
        assert all(16 <= value < 32 for value in values)
        assert not any(source[2 * pairs :] + inputs[pairs:])
        assert sorted(inputs[:pairs]) == sorted(keys)
        assert targets == look_up(inputs[:pairs], source) + [IGNORED] * (of - pairs)


def dictionary() -> dict[int, int]:
    """As a newcomer learns it: from sentences of one word."""
    found: dict[int, int] = {}
    runner = make_runner(replace(TRANSLATION, batch=500))
    for _, source, targets in rows(runner.training_batch(0, total_steps=1000, seed=3)):
        assert found.setdefault(source[0], targets[0]) == targets[0]
    return found


def check_translation(batch: Batch, *, words: int, of: int = 8) -> None:
    meaning = dictionary()
    for inputs, source, targets in rows(batch):
        sentence, answers = source[:words], targets[:words]
        assert len(set(sentence)) == words
        assert source[words:] == [1] + [0] * (of - words)
        assert answers == [meaning[word] for word in reversed(sentence)]
        assert targets[words:] == [IGNORED] * (of - words)
        assert inputs == [1, *answers[:-1]] + [0] * (of - words)


@pytest.mark.parametrize(("task", "check"), [(RECALL, check_recall), (TRANSLATION, check_translation)])
def test_sequences_follow_the_definition_and_grow_over_the_ramp(task: Task, check: Callable[..., None]) -> None:
    runner = make_runner(task)
    for step, size in ((0, 1), (20, 5), (35, 8), (99, 8)):
        check(runner.training_batch(step, total_steps=100, seed=1), **{"pairs" if task is RECALL else "words": size})
    evaluation = runner.evaluation_batches()
    assert sum(len(batch.inputs) for batch in evaluation) == 512
    for batch in evaluation:
        check(batch, **{"pairs" if task is RECALL else "words": 8})


def test_the_dictionary_is_one_to_one_and_no_copy() -> None:
    found = dictionary()
    assert sorted(found) == list(range(2, 18))
    assert sorted(found.values()) == list(range(18, 34))
    assert any(meaning != word + 16 for word, meaning in found.items())


def test_looking_up_solves_set_recall() -> None:
    assert score(RECALL, look_up) == 1.0


def test_guessing_among_the_values_is_chance() -> None:
    """Within four standard errors of 4,096 answers at 1/8: 0.021 of accuracy, 0.024 of score."""
    rng = Random(0)
    assert score(RECALL, lambda keys, source: [rng.choice(source[1::2]) for _ in keys]) < 0.024


def test_reading_backwards_through_the_dictionary_solves_translation() -> None:
    meaning = dictionary()
    assert score(TRANSLATION, lambda inputs, source: [meaning[word] for word in source[7::-1]]) == 1.0


def test_looking_up_the_word_before_solves_translation() -> None:
    """What a causal mixer can do: find the last word said in the source, and translate the one before it."""
    meaning = {1: 1, **dictionary()}
    word_of = {said: word for word, said in meaning.items()}

    def solve(inputs: list[int], source: list[int]) -> list[int]:
        return [meaning[source[source.index(word_of[said]) - 1]] for said in inputs]

    assert score(TRANSLATION, solve) == 1.0


def test_translating_without_the_order_is_chance() -> None:
    """Guessing among the words not yet said; within four standard errors of 4,096 answers at 0.34: 0.03, or 0.045."""
    meaning, rng = dictionary(), Random(0)

    def guess(inputs: list[int], source: list[int]) -> list[int]:
        words = [meaning[word] for word in source[:8]]
        return [rng.choice([each for each in words if each not in inputs[: place + 1]]) for place in range(8)]

    runner = make_runner(TRANSLATION)
    tally = evaluate(Answering(guess, 34), runner.evaluation_batches())
    chance = sum(1 / left for left in range(1, 9)) / 8
    assert tally.accuracy == pytest.approx(chance, abs=0.03)
    assert runner.score(tally) < 0.045


@pytest.mark.parametrize("task", [RECALL, TRANSLATION], ids=lambda task: task.name)
def test_data_is_a_function_of_seed_and_step_alone(task: Task) -> None:
    def draw(step: int, seed: int) -> Tensor:
        source = make_runner(task).training_batch(step, total_steps=10, seed=seed).source
        assert source is not None
        return source

    first = draw(5, 7)
    torch.manual_seed(3)
    assert torch.equal(first, draw(5, 7))
    assert not torch.equal(first, draw(5, 8))
    assert not torch.equal(draw(8, 7), draw(9, 7))


@pytest.mark.parametrize(
    ("task", "words"),
    [
        (replace(RECALL, length=1), "number of pairs, take at least 2"),
        (replace(RECALL, vocabulary=17), "at least 18"),
        (replace(RECALL, options=(("pairs", 3),)), "no option 'pairs'"),
        (replace(TRANSLATION, length=1), "number of words, take at least 2"),
        (replace(TRANSLATION, vocabulary=35), "take an even one"),
        (replace(TRANSLATION, vocabulary=16), "18 symbols"),
        (replace(TRANSLATION, options=(("ramp", 1.5),)), "from 0 to 1"),
    ],
)
def test_a_wrong_task_is_refused_with_its_remedy(task: Task, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        make_runner(task)
