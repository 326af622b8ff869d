"""Selective copying and compression: read by plain loops, solved by hand-set modules, not to be guessed."""

import time
from dataclasses import replace
from itertools import product
from math import comb, sqrt

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from archloom.db.records import Task
from archloom.errors import ConfigError
from archloom.evaluator.tasks import IGNORED, make_runner
from archloom.evaluator.tasks.mad_copying import Compression, SelectiveCopying, expected_largest
from archloom.evaluator.training import evaluate

COPYING = Task(name="selective_copying", vocabulary=12, length=32, batch=64, options=(("tokens", 5),))
COMPRESSION = Task(name="compression", vocabulary=16, length=17, batch=64)
BOTH = pytest.mark.parametrize("task", [COPYING, COMPRESSION], ids=lambda task: task.name)


@settings(max_examples=50, deadline=None)
@given(tokens=st.integers(1, 7), spare=st.integers(0, 9), symbols=st.integers(2, 9), seed=st.integers(0, 2**32))
def test_copying_follows_the_definition(tokens: int, spare: int, symbols: int, seed: int) -> None:
    length = 2 * tokens + 1 + spare
    runner = SelectiveCopying(vocabulary=symbols + 2, length=length, batch=6, tokens=tokens, ramp=0.0, evaluation=6)
    blank, mark = symbols, symbols + 1
    for batch in (runner.training_batch(1, total_steps=3, seed=seed), *runner.evaluation_batches()):
        for inputs, targets in zip(batch.inputs.tolist(), batch.targets.tolist(), strict=True):
            at = inputs.index(mark)
            said = [symbol for symbol in inputs[:at] if symbol != blank]
            assert len(said) == tokens
            assert all(0 <= symbol < symbols for symbol in said)
            assert inputs[at:] == [mark] + [blank] * tokens
            assert targets == [IGNORED] * (at + 1) + said


def test_tokens_stand_anywhere_before_the_mark_alike() -> None:
    task = replace(COPYING, batch=20_000, options=(("ramp", 0.0), ("tokens", 5)))
    held = make_runner(task).training_batch(0, total_steps=1, seed=0).inputs[:, :26] < 10
    error = sqrt(5 / 26 * 21 / 26 / 20_000)
    assert held.double().mean(dim=0) == pytest.approx([5 / 26] * 26, abs=4.5 * error)  # 26 places: 2e-4 by chance


def test_tokens_grow_over_the_ramp_and_the_mark_stays() -> None:
    runner = make_runner(COPYING)
    for step, tokens in ((0, 1), (8, 2), (40, 5), (99, 5)):
        batch = runner.training_batch(step, total_steps=100, seed=0)
        assert (batch.inputs[:, 26] == 11).all()
        assert ((batch.inputs < 10).sum(dim=1) == tokens).all()
        assert torch.equal(batch.targets[:, 27 : 27 + tokens] >= 0, torch.ones(64, tokens, dtype=torch.bool))
        assert (batch.scored.sum(dim=1) == tokens).all()


@pytest.mark.parametrize(("draws", "boxes"), [(1, 1), (1, 5), (4, 1), (4, 3), (5, 2), (3, 6), (6, 4)])
def test_the_fullest_box_by_enumeration(draws: int, boxes: int) -> None:
    ways = list(product(range(boxes), repeat=draws))
    mean = sum(max(map(way.count, way)) for way in ways) / len(ways)
    assert expected_largest(draws, boxes=boxes) == pytest.approx(mean, rel=1e-12)


def test_the_fullest_of_two_boxes_with_many_draws() -> None:
    exact = sum(max(k, 100 - k) * comb(100, k) for k in range(101)) / 2**100
    assert expected_largest(100, boxes=2) == pytest.approx(exact, rel=1e-10)


class Copier(nn.Module):
    """At the n-th blank after the mark, the n-th symbol that was no blank: by counting, as a position of attention."""

    def __init__(self, vocabulary: int) -> None:
        super().__init__()
        self.vocabulary = vocabulary

    def forward(self, inputs: Tensor) -> Tensor:
        mark = self.vocabulary - 1
        after = (inputs == mark).cumsum(dim=1)
        number = (inputs < mark - 1).cumsum(dim=1) * (inputs < mark - 1)  # of symbols: 1, 2, ..., else 0
        wanted = after.cumsum(dim=1) - 1
        attends = ((number[:, None, :] == wanted[:, :, None]) & (number > 0)[:, None, :]).double().tril()
        return attends @ nn.functional.one_hot(inputs, self.vocabulary).double() * 50


class Commonest(nn.Module):
    """The commonest symbol so far, all along."""

    def __init__(self, vocabulary: int) -> None:
        super().__init__()
        self.vocabulary = vocabulary

    def forward(self, inputs: Tensor) -> Tensor:
        counts = nn.functional.one_hot(inputs, self.vocabulary).double().cumsum(dim=1)
        counts[..., -2:] = 0
        return counts


def test_counting_solves_copying() -> None:
    runner = make_runner(COPYING)
    assert runner.score(evaluate(Copier(12), runner.evaluation_batches())) == 1.0


def test_the_commonest_symbol_is_right_as_often_as_chance() -> None:
    runner = make_runner(replace(COPYING, batch=4000, options=(("evaluation", 4000), ("tokens", 5))))
    assert isinstance(runner, SelectiveCopying)
    tally = evaluate(Commonest(12), runner.evaluation_batches())
    # The largest count of a sequence spreads by under one token of five.
    assert tally.accuracy == pytest.approx(runner.chance, abs=4 * (1 / 5) / sqrt(4000))
    assert runner.score(tally) < 0.03


@settings(max_examples=40, deadline=None)
@given(length=st.integers(2, 9), bits=st.integers(1, 4), spare=st.integers(1, 3), seed=st.integers(0, 2**32))
def test_compression_follows_the_definition(length: int, bits: int, spare: int, seed: int) -> None:
    channels = bits * (length - 1) + spare
    runner = Compression(channels=channels, length=length, batch=4, bits=bits, ramp=0.0, evaluation=4)
    for batch in (runner.training_batch(1, total_steps=3, seed=seed), *runner.evaluation_batches()):
        assert batch.inputs.dtype == batch.targets.dtype == torch.float32
        for inputs, targets in zip(batch.inputs.tolist(), batch.targets.tolist(), strict=True):
            whole = [bit for token in inputs[:-1] for bit in token[:bits]]
            assert set(whole) <= {-1.0, 1.0}
            assert all(token[bits:] == [0.0] * (channels - bits) for token in inputs[:-1])
            assert inputs[-1] == [float(channel == bits) for channel in range(channels)]
            assert all(number != number for token in targets[:-1] for number in token)
            assert targets[-1][: len(whole)] == whole
            assert all(number != number for number in targets[-1][len(whole) :])


def test_the_last_tokens_are_asked_for_first() -> None:
    runner = make_runner(replace(COMPRESSION, options=(("bits", 1), ("ramp", 0.5))))
    for step, asked in ((0, 1), (25, 9), (49, 16), (99, 16)):
        scored = runner.training_batch(step, total_steps=100, seed=0).scored
        assert (scored == torch.tensor([[False] * 16] * 16 + [[False] * (16 - asked) + [True] * asked])).all()


class Shelf(nn.Module):
    """Keeps the last `width` tokens apart in as many numbers, as a convolution with one filter a channel does."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.width = width

    def forward(self, inputs: Tensor) -> Tensor:
        past = nn.functional.pad(inputs[..., 0], (16, 0)).unfold(1, 16, 1)[:, :-1]  # the 16 tokens before each place
        kept = torch.zeros_like(past)
        kept[..., 16 - self.width :] = past[..., 16 - self.width :]
        return kept


@pytest.mark.parametrize(("width", "score"), [(16, 1.0), (4, 0.25), (0, 0.0)])
def test_the_score_of_compression_is_the_part_that_fits(width: int, score: float) -> None:
    runner = make_runner(COMPRESSION)
    assert runner.score(evaluate(Shelf(width), runner.evaluation_batches())) == score


@BOTH
def test_data_is_a_function_of_seed_and_step_alone(task: Task) -> None:
    def draw(step: int, seed: int) -> Tensor:
        return make_runner(task).training_batch(step, total_steps=10, seed=seed).inputs

    assert torch.equal(draw(5, 7), draw(5, 7))
    assert not torch.equal(draw(8, 7), draw(8, 6))
    assert not torch.equal(draw(8, 7), draw(9, 7))
    fixed = [make_runner(task).evaluation_batches()[0].inputs for _ in range(2)]
    assert torch.equal(*fixed)
    assert not torch.equal(fixed[0], draw(9, 0))


@pytest.mark.parametrize(
    ("task", "change", "words"),
    [
        (COPYING, {"options": (("tokens", 0),)}, "should be from 1 to 256"),
        (COPYING, {"options": (("tokens", 16),)}, "at least 33"),
        (COPYING, {"vocabulary": 3}, "at least 4"),
        (COMPRESSION, {"length": 18}, "at least 17"),
        (COMPRESSION, {"length": 1}, "at least 2"),
        (COMPRESSION, {"options": (("bits", 2),)}, "at least 32"),
        (COMPRESSION, {"options": (("bits", 17),)}, "should be from 1 to 16"),
    ],
)
def test_a_wrong_task_is_refused_with_its_remedy(task: Task, change: dict[str, object], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        make_runner(replace(task, **change))


@pytest.mark.benchmark
@BOTH
def test_time_of_a_batch(task: Task) -> None:
    runner = make_runner(task)
    started = time.perf_counter()
    for _ in range(100):
        runner.training_batch(90, total_steps=100, seed=0)
    spent = (time.perf_counter() - started) / 100
    print(f"{1e6 * spent / (task.batch * task.length):.3f} ms per 1,000 tokens")
