"""MQAR is what Zoology defines: checked sequence by sequence against the definition, by plain loops."""

import time
from dataclasses import replace

import numpy as np
import pytest
import torch

from archloom.db.records import Task
from archloom.errors import ConfigError
from archloom.evaluator.tasks import IGNORED, Batch, Tally, make_runner

MQAR = Task(name="mqar", vocabulary=64, length=32, batch=64, options=(("pairs", 8), ("ramp", 0.4)))


def check(batch: Batch, *, pairs: int, vocabulary: int = 64) -> None:
    """Every sequence of a batch keeps every rule of the definition."""
    for inputs, targets in zip(batch.inputs.tolist(), batch.targets.tolist(), strict=True):
        context, rest = inputs[: 2 * pairs], inputs[2 * pairs :]
        values = dict(zip(context[0::2], context[1::2], strict=True))
        assert len(values) == pairs
        assert len(set(values.values())) == pairs
        assert all(1 <= key < vocabulary // 2 <= value < vocabulary for key, value in values.items())
        assert sorted(symbol for symbol in rest if symbol) == sorted(values)
        asked = [place for place, target in enumerate(targets) if target != IGNORED]
        assert len(asked) == pairs
        assert all(place >= 2 * pairs and place % 2 == 0 for place in asked)
        assert all(targets[place] == values[inputs[place]] for place in asked)


@pytest.mark.parametrize(("pairs", "length"), [(2, 8), (8, 32), (8, 64), (15, 62)])
def test_sequences_follow_the_definition(pairs: int, length: int) -> None:
    task = replace(MQAR, length=length, batch=16, options=(("pairs", pairs), ("ramp", 0.0)))
    batch = make_runner(task).training_batch(3, total_steps=10, seed=1)
    assert batch.inputs.shape == batch.targets.shape == (16, length)
    assert batch.inputs.dtype == batch.targets.dtype == torch.int64
    check(batch, pairs=pairs)


def test_pairs_grow_from_one_to_all_over_the_ramp() -> None:
    runner = make_runner(MQAR)
    batches = [runner.training_batch(step, total_steps=100, seed=0) for step in range(100)]
    pairs = [int((batch.targets[0] != IGNORED).sum()) for batch in batches]
    assert pairs[0] == 1
    assert pairs == sorted(pairs)
    assert set(pairs) == set(range(1, 9))
    assert pairs[35] == 8
    assert pairs[34] == 7
    for batch, count in zip(batches[::10], pairs[::10], strict=True):
        check(batch, pairs=count)


def test_queries_stand_where_the_power_law_puts_them() -> None:
    """The first of two weighted draws without replacement, by enumeration: slots 1, 2, 3 with weights i^-0.99."""
    task = replace(MQAR, length=10, batch=20_000, options=(("pairs", 2), ("ramp", 0.0)))
    batch = make_runner(task).training_batch(0, total_steps=1, seed=0)
    place_of_first_key = (batch.inputs[:, 4:] == batch.inputs[:, :1]).int().argmax(dim=1) // 2
    weights = np.arange(1, 4) ** -0.99
    found = np.bincount(place_of_first_key.numpy(), minlength=3) / 20_000
    np.testing.assert_allclose(found, weights / weights.sum(), atol=0.015)  # four standard errors of a half


def test_data_is_a_function_of_seed_and_step_alone() -> None:
    def draw(step: int, seed: int) -> torch.Tensor:
        return make_runner(MQAR).training_batch(step, total_steps=10, seed=seed).inputs

    torch.manual_seed(1)
    first = draw(5, 7)
    np.random.seed(2)  # the global generator is to play no part
    torch.manual_seed(3)
    assert torch.equal(first, draw(5, 7))
    assert not torch.equal(first, draw(5, 8))
    assert not torch.equal(draw(8, 7), draw(9, 7))


def test_the_evaluation_set_is_fixed_whole_and_hard() -> None:
    first, second = make_runner(MQAR).evaluation_batches(), make_runner(MQAR).evaluation_batches()
    assert sum(len(batch.inputs) for batch in first) == 512
    for one, other in zip(first, second, strict=True):
        assert torch.equal(one.inputs, other.inputs)
        assert torch.equal(one.targets, other.targets)
        check(one, pairs=8)


@pytest.mark.parametrize(("correct", "score"), [(80, 1.0), (10, 0.0), (0, 0.0), (45, 0.5)])
def test_the_score_is_accuracy_above_chance(correct: int, score: float) -> None:
    tally = Tally(total=8.0, correct=correct, scored=80)
    assert make_runner(MQAR).score(tally) == pytest.approx(score)
    assert make_runner(MQAR).metrics(tally) == {"loss": 0.1, "accuracy": correct / 80}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"options": (("pairs", 1),)}, "is 1: it should be at least 2"),
        ({"options": (("pairs", 9),)}, "at least 36"),
        ({"length": 33}, "even"),
        ({"vocabulary": 17}, "at least 18"),
        ({"options": (("ramp", 2),)}, "should be from 0 to 1"),
        ({"options": (("pears", 8),)}, "no option 'pears'"),
        ({"options": (("pairs", "8"),)}, "type int"),
        ({"name": "recall"}, "unknown kind 'recall'"),
    ],
)
def test_a_wrong_task_is_refused_with_its_remedy(change: dict[str, object], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        make_runner(replace(MQAR, **change))


def test_a_protocol_can_hold_two_tasks_of_one_kind() -> None:
    hard = replace(MQAR, name="hard", length=64, options=(("kind", "mqar"), ("pairs", 16)))
    check(make_runner(hard).evaluation_batches()[0], pairs=16)


@pytest.mark.benchmark
def test_time_of_a_batch() -> None:
    runner = make_runner(MQAR)
    started = time.perf_counter()
    for _ in range(1000):
        runner.training_batch(900, total_steps=1000, seed=0)
    print(f"{time.perf_counter() - started:.3f} ms a batch of 64 x 32")
