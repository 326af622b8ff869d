"""Memorisation: one map for every sequence, solved by a table one token back, not to be guessed."""

import time
from dataclasses import replace
from math import sqrt

import pytest
import torch
from torch import Tensor, nn

from archloom.db.records import Task
from archloom.errors import ConfigError
from archloom.evaluator.tasks import IGNORED, make_runner
from archloom.evaluator.tasks.mad_memorisation import Memorisation
from archloom.evaluator.training import evaluate

TASK = Task(name="memorisation", vocabulary=256, length=32, batch=64)


@pytest.mark.parametrize(("vocabulary", "keys"), [(5, 2), (16, 7), (17, 8), (256, 127)])
def test_sequences_follow_one_map(vocabulary: int, keys: int) -> None:
    runner = make_runner(replace(TASK, vocabulary=vocabulary))
    batches = [runner.training_batch(step, total_steps=9, seed=seed) for step in (0, 8) for seed in (0, 1)]
    learnt: dict[int, int] = {}
    for batch in (*batches, *runner.evaluation_batches()):
        for inputs, targets in zip(batch.inputs.tolist(), batch.targets.tolist(), strict=True):
            assert inputs[1::2] == [vocabulary - 1] * 16
            assert targets[0::2] == [IGNORED] * 16
            assert all(
                learnt.setdefault(key, value) == value for key, value in zip(inputs[0::2], targets[1::2], strict=True)
            )
    assert sorted(learnt) == list(range(keys))
    assert sorted(learnt.values()) == list(range(keys, 2 * keys))


class Table(nn.Module):
    """The value of the token before, by a table."""

    def __init__(self, values: list[int]) -> None:
        super().__init__()
        self.weights = torch.zeros(256, 256)
        self.weights[torch.arange(len(values)), torch.tensor(values)] = 50.0

    def forward(self, inputs: Tensor) -> Tensor:
        return self.weights[inputs.roll(1, dims=1)]


class Still(nn.Module):
    """One value, all along."""

    def forward(self, inputs: Tensor) -> Tensor:
        return nn.functional.one_hot(torch.full_like(inputs, 200), 256).double()


def test_a_table_one_token_back_solves_it() -> None:
    runner = make_runner(TASK)
    batch = runner.training_batch(0, total_steps=1, seed=0)
    pairs = dict(zip(batch.inputs[:, 0::2].flatten().tolist(), batch.targets[:, 1::2].flatten().tolist(), strict=True))
    tally = evaluate(Table([pairs[key] for key in range(127)]), runner.evaluation_batches())
    assert runner.score(tally) == 1.0


def test_one_value_is_right_as_often_as_chance() -> None:
    runner = make_runner(TASK)
    assert isinstance(runner, Memorisation)
    tally = evaluate(Still(), runner.evaluation_batches())
    assert tally.accuracy == pytest.approx(1 / 127, abs=4 * sqrt(1 / 127 / tally.scored))  # four standard errors
    assert runner.score(tally) < 0.006


def test_data_is_a_function_of_seed_and_step_alone() -> None:
    def draw(step: int, seed: int) -> Tensor:
        return make_runner(TASK).training_batch(step, total_steps=10, seed=seed).inputs

    assert torch.equal(draw(5, 7), draw(5, 7))
    assert not torch.equal(draw(8, 7), draw(8, 6))
    assert not torch.equal(draw(8, 7), draw(9, 7))
    fixed = [make_runner(TASK).evaluation_batches()[0].inputs for _ in range(2)]
    assert torch.equal(*fixed)
    assert not torch.equal(fixed[0], draw(9, 0))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"length": 33}, "even"),
        ({"vocabulary": 4}, "a mark take 5"),
        ({"options": (("ramp", 0.4),)}, "no option 'ramp'"),
        ({"options": (("evaluation", 0),)}, "at least 1"),
    ],
)
def test_a_wrong_task_is_refused_with_its_remedy(change: dict[str, object], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        make_runner(replace(TASK, **change))


@pytest.mark.benchmark
def test_time_of_a_batch() -> None:
    runner = make_runner(TASK)
    started = time.perf_counter()
    for _ in range(100):
        runner.training_batch(0, total_steps=1, seed=0)
    print(f"{1e6 * (time.perf_counter() - started) / 100 / (64 * 32):.3f} ms per 1,000 tokens")
