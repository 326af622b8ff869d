"""The word and its copy: every sequence against the definition, by plain loops; a solver, a counter, and bad dials."""

from collections import Counter
from dataclasses import replace
from random import Random

import pytest
import torch
from torch import Tensor, nn

from archloom.db.records import Task
from archloom.errors import ConfigError
from archloom.evaluator.tasks import IGNORED, Batch, make_runner
from archloom.evaluator.training import evaluate

MIRROR = Task(name="mirror", vocabulary=34, length=24, batch=64, options=(("gap", 4), ("holes", 4)))
WORD = 10


def read(sequence: list[int], *, word: int = WORD) -> tuple[int, dict[int, int]]:
    """Where the copy starts, and what every hole hides. Raises if the sequence is not one word and its copy."""
    found = []
    for start in range(word, len(sequence) - word + 1):
        first, second = sequence[:word], sequence[start : start + word]
        rest = sequence[word:start] + sequence[start + word :]
        if any(symbol != 1 for symbol in rest) or 1 in first + second:
            continue
        if all(a == b or 0 in (a, b) for a, b in zip(first, second, strict=True)):
            hidden = {place: second[place] for place in range(word) if first[place] == 0}
            hidden |= {start + place: first[place] for place in range(word) if second[place] == 0}
            found.append((start, hidden))
    assert len(found) == 1, sequence
    return found[0]


def check(batch: Batch, *, gaps: set[int], holes: int = 4) -> None:
    seen = set()
    for inputs, targets in zip(batch.inputs.tolist(), batch.targets.tolist(), strict=True):
        start, hidden = read(inputs)
        seen.add(start - WORD)
        assert hidden == {place: target for place, target in enumerate(targets) if target != IGNORED}
        assert len(hidden) == holes
        letters = {symbol for symbol in inputs if symbol >= 2}
        assert len(letters) == WORD  # each different, and none hidden twice
        assert max(letters) < 34
    assert seen == gaps


class Answering(nn.Module):
    """A model that says what a plain function says of each sequence."""

    def __init__(self, answer, vocabulary: int) -> None:  # type: ignore[no-untyped-def]
        super().__init__()
        self.answer, self.vocabulary = answer, vocabulary

    def forward(self, inputs: Tensor) -> Tensor:
        said = torch.tensor([self.answer(sequence) for sequence in inputs.tolist()])
        return nn.functional.one_hot(said, self.vocabulary).float() * 50


def test_holes_hide_what_the_copy_has() -> None:
    runner = make_runner(MIRROR)
    check(runner.training_batch(9, total_steps=10, seed=1), gaps=set(range(5)))
    for batch in runner.evaluation_batches():
        check(batch, gaps=set(range(5)))
    assert sum(len(batch.inputs) for batch in runner.evaluation_batches()) == 512


def test_holes_are_as_often_in_either_copy() -> None:
    targets = make_runner(replace(MIRROR, batch=4000)).training_batch(9, total_steps=10, seed=0).targets
    first = int((targets[:, :WORD] != IGNORED).sum()) / 16_000
    assert first == pytest.approx(0.5, abs=0.016)  # four standard errors


def test_the_gap_grows_over_the_ramp() -> None:
    runner = make_runner(MIRROR)
    check(runner.training_batch(0, total_steps=100, seed=0), gaps={0})
    check(runner.training_batch(20, total_steps=100, seed=0), gaps={0, 1, 2})
    check(runner.training_batch(40, total_steps=100, seed=0), gaps=set(range(5)))
    fixed = make_runner(replace(MIRROR, options=(("gap", 4), ("holes", 4), ("ramp", 0.0))))
    check(fixed.training_batch(0, total_steps=100, seed=0), gaps=set(range(5)))


def test_a_model_that_finds_the_copy_solves_it() -> None:
    def solve(sequence: list[int]) -> list[int]:
        _, hidden = read(sequence)
        return [hidden.get(place, 0) for place in range(len(sequence))]

    runner = make_runner(MIRROR)
    assert runner.score(evaluate(Answering(solve, 34), runner.evaluation_batches())) == 1.0


def test_counting_is_chance() -> None:
    """Letters seen once, in random order: right once in four holes, within four standard errors of 2,048 holes."""
    rng = Random(0)

    def count(sequence: list[int]) -> list[int]:
        once = [symbol for symbol, times in Counter(sequence).items() if times == 1 and symbol >= 2]
        return [rng.choice(once) for _ in sequence]

    runner = make_runner(MIRROR)
    tally = evaluate(Answering(count, 34), runner.evaluation_batches())
    assert tally.scored == 2048
    assert tally.accuracy == pytest.approx(0.25, abs=0.04)
    assert runner.score(tally) < 0.05


def test_data_is_a_function_of_seed_and_step_alone() -> None:
    def draw(step: int, seed: int) -> Tensor:
        return make_runner(MIRROR).training_batch(step, total_steps=10, seed=seed).inputs

    first = draw(5, 7)
    torch.manual_seed(3)
    assert torch.equal(first, draw(5, 7))
    assert not torch.equal(first, draw(5, 8))
    assert not torch.equal(draw(8, 7), draw(9, 7))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"length": 25}, "take an even difference"),
        ({"length": 10}, "4 holes take at least 12"),
        ({"vocabulary": 11}, "at least 12"),
        ({"options": (("holes", 1),)}, "should be at least 2"),
        ({"options": (("gap", -1),)}, "should be at least 0"),
    ],
)
def test_a_wrong_task_is_refused_with_its_remedy(change: dict[str, object], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        make_runner(replace(MIRROR, **change))
