"""Regression in context, against plain loops that read nothing but the model's own inputs."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from archloom.db.records import Task
from archloom.errors import ConfigError
from archloom.evaluator.tasks import Batch, Tally, make_runner
from archloom.evaluator.tasks.regression import InContextRegression, TestTimeRegression, bounds, explained
from archloom.evaluator.training import evaluate

SHOWN = Task(
    name="in_context_regression",
    vocabulary=5,
    length=24,
    batch=16,
    options=(("dimension", 3), ("evaluation", 64), ("ramp", 0.5)),
)
STREAM = Task(
    name="test_time_regression",
    vocabulary=7,
    length=48,
    batch=16,
    options=(("dimension", 3), ("evaluation", 64), ("pieces", 2), ("ramp", 0.5)),
)


def shown(task: Task = SHOWN) -> InContextRegression:
    made = make_runner(task)
    assert isinstance(made, InContextRegression)
    return made


def stream(task: Task = STREAM) -> TestTimeRegression:
    made = make_runner(task)
    assert isinstance(made, TestTimeRegression)
    return made


def fit(pairs: list[tuple[np.ndarray, np.ndarray]], query: np.ndarray) -> np.ndarray | float:
    """Least squares of smallest norm."""
    if not pairs:
        return 0.0
    keys, values = (np.stack(each) for each in zip(*pairs, strict=True))
    return query @ np.linalg.lstsq(keys, values, rcond=None)[0]


def learn_from_examples(tokens: np.ndarray) -> np.ndarray:
    """Predictions for one sequence [T, C] of the first task."""
    said, pairs = np.zeros_like(tokens), []
    for place in range(0, len(tokens), 2):
        query = tokens[place, :-1]
        said[place, -1] = np.squeeze(fit(pairs, query))
        pairs.append((query, tokens[place + 1, -1:]))
    return said


def learn_from_stream(tokens: np.ndarray) -> np.ndarray:
    """Predictions for one sequence of the second: whoever is contradicted starts again. Nobody tells it of a change."""
    width = tokens.shape[1] // 2
    said, pairs = np.zeros_like(tokens), []
    for place in range(0, len(tokens), 2):
        key, value = tokens[place, :width], tokens[place, width : 2 * width]
        if len(pairs) >= width and np.abs(fit(pairs, key) - value).max() > 1e-3:
            pairs = []
        pairs.append((key, value))
        said[place + 1, width : 2 * width] = fit(pairs, tokens[place + 1, :width])
    return said


class ByHand(nn.Module):
    """A program for one sequence as a model."""

    def __init__(self, program: Callable[[np.ndarray], np.ndarray]) -> None:
        super().__init__()
        self.program = program

    def forward(self, inputs: Tensor) -> Tensor:
        return torch.from_numpy(np.stack([self.program(tokens) for tokens in inputs.double().numpy()])).float()


def test_examples_follow_the_definition() -> None:
    batch = shown().training_batch(9, total_steps=10, seed=1)
    assert batch.inputs.shape == batch.targets.shape == (16, 24, 5)
    assert batch.inputs.dtype == batch.targets.dtype == torch.float32
    for tokens, targets in zip(batch.inputs.numpy(), batch.targets.numpy(), strict=True):
        inputs, outputs = tokens[0::2], tokens[1::2]
        assert not inputs[:, 3:].any()
        assert not outputs[:, :-1].any()
        weights = np.linalg.lstsq(inputs[:, :3], outputs[:, -1], rcond=None)[0]
        np.testing.assert_allclose(inputs[:, :3] @ weights, outputs[:, -1], atol=1e-5)  # float32
        np.testing.assert_array_equal(targets[0::2, -1], outputs[:, -1])
        assert np.isnan(targets[1::2]).all()
        assert np.isnan(targets[0::2, :-1]).all()


@pytest.mark.parametrize("pieces", [1, 2, 4])
def test_streams_follow_the_definition(pieces: int) -> None:
    """Of every piece, found by where a fit of what came before breaks, all pairs and answers are of one map."""
    options = (("dimension", 3), ("pieces", pieces), ("ramp", 0.0))
    batch = stream(replace(STREAM, options=options)).training_batch(0, total_steps=10, seed=1)
    assert batch.inputs.shape == batch.targets.shape == (16, 48, 7)
    for tokens, targets in zip(batch.inputs.numpy(), batch.targets.numpy(), strict=True):
        stored, asked = tokens[0::2], tokens[1::2]
        assert not stored[:, -1].any()
        assert (asked[:, -1] == 1).all()
        assert not asked[:, 3:6].any()
        assert np.isnan(targets[0::2]).all()
        assert np.isnan(targets[1::2][:, [0, 1, 2, 6]]).all()
        starts = [0]
        for place in range(1, 24):
            held = range(starts[-1], place)
            law = np.linalg.lstsq(stored[held, :3], stored[held, 3:6], rcond=None)[0]
            if len(held) >= 3 and np.abs(stored[place, :3] @ law - stored[place, 3:6]).max() > 1e-3:
                starts.append(place)
        assert len(starts) == pieces
        even = 24 // pieces
        assert all(even * j <= start <= even * j + even // 2 for j, start in enumerate(starts))
        for start, end in zip(starts, [*starts[1:], 24], strict=True):
            law = np.linalg.lstsq(stored[start:end, :3], stored[start:end, 3:6], rcond=None)[0]
            np.testing.assert_allclose(asked[start:end, :3] @ law, targets[1::2][start:end, 3:6], atol=1e-3)


@pytest.mark.parametrize(
    ("runner", "program"), [(shown(), learn_from_examples), (stream(), learn_from_stream)], ids=["shown", "stream"]
)
def test_who_regresses_is_the_oracle_and_who_says_nothing_is_at_chance(
    runner: InContextRegression | TestTimeRegression, program: Callable[[np.ndarray], np.ndarray]
) -> None:
    """The solver reads float32 inputs, and a nearly singular square system magnifies their rounding."""
    batches = runner.evaluation_batches()
    solved = evaluate(ByHand(program), batches)
    assert runner.score(solved) == pytest.approx(1.0, abs=1e-3)
    assert solved.loss == pytest.approx(runner.metrics(solved)["oracle_loss"], rel=1e-2)
    silent = evaluate(ByHand(np.zeros_like), batches)
    assert runner.score(silent) == pytest.approx(0.0, abs=1e-6)
    recent = evaluate(ByHand(lambda tokens: np.roll(tokens, 1, axis=0)), batches)  # the last value seen
    assert runner.score(recent) < 0.1


def test_who_ignores_the_change_stays_below_the_oracle() -> None:
    def stubborn(tokens: np.ndarray) -> np.ndarray:
        said, pairs = np.zeros_like(tokens), []
        for place in range(0, len(tokens), 2):
            pairs.append((tokens[place, :3], tokens[place, 3:6]))
            said[place + 1, 3:6] = fit(pairs, tokens[place + 1, :3])
        return said

    assert 0.2 < stream().score(evaluate(ByHand(stubborn), stream().evaluation_batches())) < 0.8


def test_the_oracles_error_is_that_of_theory() -> None:
    """n examples of K weights leave a share max(0, 1 - n / K) of the variance open; five standard errors of a mean of
    2,000 sequences whose squared errors have, like those of predicting 0, a standard deviation below 3."""
    many = replace(SHOWN, options=(("dimension", 3), ("evaluation", 2000)))
    zero, oracle = bounds(shown(many))
    assert zero == pytest.approx(1.0, abs=5 * 3 / np.sqrt(2000 * 12) * np.sqrt(12 / 3))
    assert oracle == pytest.approx((1 + 2 / 3 + 1 / 3) / 12, abs=5 * 3 / np.sqrt(2000) / 12 * np.sqrt(3))


@given(loss=st.floats(0, 10), zero=st.floats(0.5, 2), oracle=st.floats(0, 0.4))
@settings(max_examples=50, deadline=None)
def test_what_is_explained_lies_between_zero_and_the_oracle(loss: float, zero: float, oracle: float) -> None:
    share = explained(loss, zero=zero, oracle=oracle)
    assert 0 <= share <= 1
    if oracle < loss < zero:
        assert loss == pytest.approx(zero - share * (zero - oracle))


def test_a_half_explained_scores_a_half() -> None:
    zero, oracle = bounds(shown())
    assert shown().score(Tally(total=5 * (zero + oracle), correct=0, scored=10)) == pytest.approx(0.5)


@pytest.mark.parametrize("runner", [shown(), stream()], ids=["shown", "stream"])
def test_dimensions_grow_from_one_to_all_over_the_ramp(runner: InContextRegression | TestTimeRegression) -> None:
    def used(step: int) -> int:
        keys = runner.training_batch(step, total_steps=30, seed=0).inputs[:, 0::2, :3]
        assert float(keys[keys != 0].std()) == pytest.approx(1.0, abs=0.2)
        return int(keys.abs().amax(dim=(0, 1)).count_nonzero())

    found = [used(step) for step in range(30)]
    assert found[:15] == [1] * 5 + [2] * 5 + [3] * 5
    assert set(found[15:]) == {3}


@pytest.mark.parametrize("runner", [shown(), stream()], ids=["shown", "stream"])
def test_data_is_a_function_of_seed_and_step_alone(runner: InContextRegression | TestTimeRegression) -> None:
    def draw(step: int, seed: int) -> Batch:
        return runner.training_batch(step, total_steps=10, seed=seed)

    torch.manual_seed(1)
    first = draw(8, 7).inputs
    np.random.seed(2)  # the global generator is to play no part
    assert torch.equal(first, draw(8, 7).inputs)
    assert not torch.equal(first, draw(8, 8).inputs)
    assert not torch.equal(first, draw(9, 7).inputs)
    one, other = runner.evaluation_batches(), runner.evaluation_batches()
    assert sum(len(batch.inputs) for batch in one) == 64
    assert all(torch.equal(left.inputs, right.inputs) for left, right in zip(one, other, strict=True))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"length": 23}, "even"),
        ({"length": 6}, "take over 6"),
        ({"vocabulary": 3}, "at least 4 channels"),
        ({"options": (("dimension", 0),)}, "is 0: it should be at least 1"),
        ({"options": (("ramp", 2),)}, "should be from 0 to 1"),
    ],
)
def test_wrong_examples_are_refused_with_their_remedy(change: dict[str, object], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        make_runner(replace(SHOWN, **change))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"length": 46}, "a multiple of 4 from 24 on"),
        ({"length": 20}, "a multiple of 4 from 24 on"),
        ({"vocabulary": 8}, "take 7 channels"),
        ({"options": (("dimension", 3), ("pieces", 0))}, "is 0: it should be at least 1"),
        ({"options": (("dimensions", 3),)}, "did you mean 'dimension'"),
    ],
)
def test_a_wrong_stream_is_refused_with_its_remedy(change: dict[str, object], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        make_runner(replace(STREAM, **change))
