"""Replicates trained as one batched run: for each what a run of its own gives."""

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from archloom.db.records import EvaluationKey, FailureKind, Protocol, Stopping, Task, Training, TrialSpec
from archloom.evaluator import trial
from archloom.evaluator.model import build_model
from archloom.evaluator.tasks import Batch, Tally, TaskRunner, make_runner
from archloom.evaluator.tasks.interface import IGNORED
from archloom.evaluator.together import AdamW, Replicate, losses_of, side_by_side, train_together
from archloom.evaluator.training import BETAS, TrainingResult, deterministic, loss_of, train
from archloom.search_space import zoo
from archloom.search_space.families import RECURRENCE

MQAR = Task(name="mqar", vocabulary=16, length=16, batch=16, options=(("evaluation", 32), ("pairs", 4)))
EXACT = 1e-10
"""Of float64 after some 20 steps: sums are made in another order, and each step hands its rounding on."""

STEPS = 20  # evaluated after 7, 14 and 20


class Graded:
    """A task whose score is 1 / (1 + loss), which tells runs apart from the first evaluation on; numbers in float64."""

    solved = 0.9

    def __init__(self, real: TaskRunner) -> None:
        self.real, self.batch, self.ramp = real, real.batch, real.ramp

    def training_batch(self, step: int, *, total_steps: int, seed: int) -> Batch:
        return self.real.training_batch(step, total_steps=total_steps, seed=seed).each(doubled)

    def evaluation_batches(self) -> Sequence[Batch]:
        return [batch.each(doubled) for batch in self.real.evaluation_batches()]

    def metrics(self, tally: Tally) -> Mapping[str, float]:
        return self.real.metrics(tally)

    def score(self, tally: Tally) -> float:
        return 1 / (1 + tally.loss)


def doubled(tensor: Tensor) -> Tensor:
    return tensor.double() if tensor.is_floating_point() else tensor


def protocol(task: Task, **options: object) -> Protocol:
    reference = zoo.load("mha", depth=1).text
    return Protocol(version=2, grammar=1, reference=reference, width=16, depth=1, tasks=(task,), rungs=(), **options)


def replicates(name: str, task: Task, runs: Sequence[tuple[int, float]]) -> list[Replicate]:
    """Models of a zoo system in float64, for pairs of a seed and a learning rate."""
    text = zoo.load(name, depth=1).text
    return [
        Replicate(
            model=build_model(text, protocol=protocol(task), task=task, seed=seed).double(),
            seed=seed,
            learning_rate=learning_rate,
        )
        for seed, learning_rate in runs
    ]


def alone(each: Replicate, runner: TaskRunner, training: Training, stopping: Stopping | None) -> TrainingResult:
    training = replace(training, learning_rate=each.learning_rate)
    return train(each.model, runner, training=training, steps=STEPS, seed=each.seed, stopping=stopping)


def compare(
    name: str,
    task: Task,
    runs: Sequence[tuple[int, float]],
    *,
    training: Training | None = None,
    stopping: Stopping | None = None,
) -> list[TrainingResult]:
    """The results of runs together, each equal to that of a run alone, and so the weights that it leaves."""
    runner, training = Graded(make_runner(task)), training or Training(warmup=3)
    with deterministic(0):
        separate = replicates(name, task, runs)
        expected = [alone(each, runner, training, stopping) for each in separate]
        joined = replicates(name, task, runs)
        found = train_together(joined, runner, training=training, steps=STEPS, stopping=stopping)
    for got, want, one, other in zip(found, expected, joined, separate, strict=True):
        assert_alike(got, want)
        if want.failure is None:
            for left, right in zip(one.model.parameters(), other.model.parameters(), strict=True):
                torch.testing.assert_close(left, right, rtol=0, atol=EXACT)
    return list(found)


def assert_alike(found: TrainingResult, expected: TrainingResult, tolerance: float = EXACT) -> None:
    close = {"rel": tolerance, "abs": tolerance, "nan_ok": True}
    assert found.failure == expected.failure
    assert found.score == (None if expected.score is None else pytest.approx(expected.score, **close))
    assert found.metrics == pytest.approx(expected.metrics, **close)
    assert [(each.name, each.steps) for each in found.series] == [(each.name, each.steps) for each in expected.series]
    for got, want in zip(found.series, expected.series, strict=True):
        assert got.values == pytest.approx(want.values, **close), got.name


@pytest.mark.parametrize("name", ["mha_conv", "gated_deltanet", "hyena", "mamba"])
def test_two_seeds_at_two_rates_and_one_that_diverges(name: str) -> None:
    runs = [(seed, learning_rate) for seed in (0, 1) for learning_rate in (3e-3, 1e-2)]
    *others, last = compare(name, MQAR, [*runs, (1, 1e30)])
    assert last.failure is not None
    assert last.failure.kind is FailureKind.DIVERGED
    assert last.metrics["diverged_step"] == 2
    assert all(result.metrics["trained_steps"] == STEPS for result in others)
    assert len({result.score for result in others}) == 4


def test_each_ends_by_its_own_curve() -> None:
    """Evaluated after 7, 14 and 20 steps: the fast rate is soon as good as is asked for, the slow ones never."""
    stopping = Stopping(solved=0.27, in_a_row=1, chance=0.0)
    runs = [(0, 1e-5), (0, 3e-2), (0, 3e-5), (1, 1e-5)]
    ended = [result.metrics["trained_steps"] for result in compare("mha_conv", MQAR, runs, stopping=stopping)]
    assert ended[1] < STEPS
    assert ended[0] == ended[2] == ended[3] == STEPS


@pytest.mark.parametrize(
    ("name", "task"),
    [
        ("gla", Task(name="in_context_regression", vocabulary=5, length=16, batch=8, options=(("evaluation", 16),))),
        ("kmeans_cross", Task(name="set_recall", vocabulary=18, length=8, batch=8, options=(("evaluation", 16),))),
    ],
)
def test_vectors_and_sources(name: str, task: Task) -> None:
    compare(name, task, [(0, 1e-2), (0, 1e-3)])
    compare(name, task, [(0, 1e-2), (1, 1e-2)])


def test_the_same_replicates_give_the_same_bits() -> None:
    """Float32, as trials run; and to its precision the same as alone."""
    runs = [(0, 1e-2), (0, 3e-3), (1, 1e-2)]
    runner, found = make_runner(MQAR), []
    with deterministic(0):
        for _ in range(2):
            joined = [replace(each, model=each.model.float()) for each in replicates("gla", MQAR, runs)]
            found.append(train_together(joined, runner, training=Training(), steps=STEPS))
        separate = [replace(each, model=each.model.float()) for each in replicates("gla", MQAR, runs)]
        expected = [alone(each, runner, Training(), None) for each in separate]
    for first, second, want in zip(*found, expected, strict=True):
        assert (first.score, first.metrics, first.series) == (second.score, second.metrics, second.series)
        losses, alone_losses = first.series[0].values, want.series[0].values
        assert losses == pytest.approx(alone_losses, rel=1e-4)  # 20 steps on float32, each rounded otherwise


def test_a_passed_deadline_ends_all() -> None:
    joined = replicates("mha", MQAR, [(0, 1e-2), (1, 1e-2)])
    results = train_together(
        joined, Graded(make_runner(MQAR)), training=Training(), steps=STEPS, deadline=time.monotonic()
    )
    for result in results:
        assert result.failure is not None
        assert result.failure.kind is FailureKind.TIMEOUT
        assert "after 0 of 20" in result.failure.reason


def test_steps_and_replicates_are_asked_for() -> None:
    joined = replicates("mha", MQAR, [(0, 1e-2)])
    with pytest.raises(ValueError, match="at least one step, got 0"):
        train_together(joined, Graded(make_runner(MQAR)), training=Training(), steps=0)
    with pytest.raises(ValueError, match="no model is given"):
        train_together([], Graded(make_runner(MQAR)), training=Training(), steps=1)


# -- the parts of a step -----------------------------------------------------------------------------------------------


def test_the_optimizer_is_adamw_row_by_row() -> None:
    """Against PyTorch's own, in float64: the same equations, so a few roundings apart."""
    torch.manual_seed(0)
    rates, weights = (1e-3, 1e-2, 0.1), torch.randn(3, 10, dtype=torch.float64)
    decayed = torch.arange(10) < 6
    ours = AdamW(weights, rates=rates, decayed=decayed, weight_decay=0.1)
    pairs = [(nn.Parameter(row[decayed].clone()), nn.Parameter(row[~decayed].clone())) for row in weights]
    theirs = [
        torch.optim.AdamW(
            [{"params": [matrix], "weight_decay": 0.1}, {"params": [vector], "weight_decay": 0.0}], betas=BETAS
        )
        for matrix, vector in pairs
    ]
    for step in range(30):
        if step == 20:  # the second row leaves
            ours.keep(torch.tensor([0, 2]))
            weights, rates, pairs, theirs = weights[[0, 2]], rates[::2], pairs[::2], theirs[::2]
        gradients, part = torch.randn(len(weights), 10, dtype=torch.float64), 1.0 if step < 10 else 0.5
        for row, (matrix, vector), optimizer, learning_rate in zip(gradients, pairs, theirs, rates, strict=True):
            matrix.grad, vector.grad = row[decayed].clone(), row[~decayed].clone()
            for group in optimizer.param_groups:
                group["lr"] = learning_rate * part
            optimizer.step()
        ours.step(weights, gradients, rate=part)
    expected = torch.stack([torch.cat(pair).detach() for pair in pairs])
    torch.testing.assert_close(weights, expected, rtol=0, atol=1e-14)


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("vectors", [False, True])
def test_losses_are_those_of_each_and_one_that_is_not_finite_is_alone(shared: bool, vectors: bool) -> None:
    torch.manual_seed(0)
    outputs = torch.randn(3, 4, 5, 6, dtype=torch.float64)
    if vectors:
        targets = torch.randn(3, 4, 5, 6, dtype=torch.float64)
        targets[torch.rand(targets.shape) < 0.5] = math.nan
    else:
        targets = torch.randint(6, (3, 4, 5))
        targets[torch.rand(targets.shape) < 0.5] = IGNORED
    if shared:
        targets = targets[0]
    outputs[1] = math.nan
    outputs.requires_grad_()
    losses = losses_of(outputs, targets)
    each = torch.stack(
        [loss_of(outputs[n], Batch(inputs=targets, targets=targets if shared else targets[n])) for n in range(3)]
    )
    torch.testing.assert_close(losses, each, rtol=0, atol=1e-14, equal_nan=True)
    assert losses.isfinite().tolist() == [True, False, True]
    for got, want in zip(
        torch.autograd.grad(losses.sum(), outputs), torch.autograd.grad(each.sum(), outputs), strict=True
    ):
        torch.testing.assert_close(got[[0, 2]], want[[0, 2]], rtol=0, atol=1e-14)
        assert got[[0, 2]].isfinite().all()


def test_batches_of_other_shapes_do_not_go_together() -> None:
    drawn = {seed: Batch(inputs=torch.ones(2, 3 + seed), targets=torch.ones(2, 3 + seed)) for seed in (0, 1)}
    with pytest.raises(ValueError, match=r"seeds \[0, 1\] have shapes \[\(2, 3\), \(2, 4\)\]; train these seeds"):
        side_by_side(drawn, [0, 1, 1])
    assert side_by_side({0: drawn[0]}, [0, 0]) is drawn[0]


# -- trials ------------------------------------------------------------------------------------------------------------


def measured(name: str) -> trial.Measurement:
    rates = ((RECURRENCE, (1e-3, 1e-2, 3e-3)),)
    key = EvaluationKey(candidate="c", task="mqar", rung=0, seed=5)
    asked = protocol(MQAR, training=Training(rates=rates))
    return trial.measure(TrialSpec(key=key, term=zoo.load(name, depth=1).text, protocol=asked, steps=STEPS))


def test_a_grid_is_trained_together_on_devices_for_which_that_pays(monkeypatch: pytest.MonkeyPatch) -> None:
    assert set(trial.TOGETHER) == {"cuda"}
    separate = measured("gated_deltanet")
    monkeypatch.setattr(trial, "TOGETHER", {"cpu"})
    together = measured("gated_deltanet")
    assert "together" not in separate.environment
    assert together.environment["together"] == "3"
    assert together.metrics["learning_rate"] == separate.metrics["learning_rate"]
    assert together.metrics["loss"] == pytest.approx(separate.metrics["loss"], rel=1e-4)  # float32
    assert together.metrics["model_parameters"] == separate.metrics["model_parameters"]
    assert together.metrics["steps_per_second"] > 0
    assert "together" not in measured("mha").environment  # a family without a grid
