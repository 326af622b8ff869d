"""The training loop and the worker boundary: deterministic, honest about failure, cheap to evaluate."""

import contextlib
import itertools
import math
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from types import ModuleType

import pytest
import torch
from torch import nn

from archloom.db.records import (
    GATES,
    EvaluationKey,
    FailureKind,
    Measurement,
    Protocol,
    Stopping,
    Task,
    Training,
    TrialSpec,
)
from archloom.errors import EnvironmentProblem
from archloom.evaluator.tasks import Batch, Tally, make_runner
from archloom.evaluator.training import TrainingResult, deterministic, environment, evaluate, rate, train
from archloom.evaluator.trial import run_trial

MQAR = Task(name="mqar", vocabulary=16, length=8, batch=16, options=(("evaluation", 32), ("pairs", 2)))
TERM = "repeat(block(mix(apply(dense, value(x))), none), times=1)"
PROTOCOL = Protocol(version=1, grammar=1, reference="", width=8, depth=1, tasks=(MQAR,), rungs=())


class Attention(nn.Module):
    """One head of causal attention over each symbol and the one before it: enough to recall."""

    def __init__(self, vocabulary: int, width: int) -> None:
        super().__init__()
        self.embed = nn.Embedding(vocabulary, width)
        self.project = nn.Linear(2 * width, 3 * width)
        self.read = nn.Linear(width, vocabulary)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        x = self.embed(inputs)
        before = nn.functional.pad(x, (0, 0, 1, 0))[:, :-1]
        query, key, value = self.project(torch.cat([x, before], dim=-1)).chunk(3, dim=-1)
        return self.read(nn.functional.scaled_dot_product_attention(query, key, value, is_causal=True))


class Explosive(nn.Module):
    """Its logits become NaN at the third call in training mode."""

    def __init__(self) -> None:
        super().__init__()
        self.read = nn.Embedding(16, 16)
        self.calls = 0

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        self.calls += self.training
        return self.read(inputs) * (math.nan if self.calls == 3 else 1.0)


def run(*, seed: int = 0, steps: int = 40, threads: int = 1, training: Training | None = None) -> TrainingResult:
    with deterministic(seed, threads=threads):
        model = Attention(16, 8)
        return train(model, make_runner(MQAR), training=training or Training(), steps=steps, seed=seed)


def test_the_same_seed_gives_the_same_bits_whatever_happened_before() -> None:
    first = run()
    torch.rand(3)
    second = run()
    assert first.score == second.score
    assert first.metrics == second.metrics
    assert first.series == second.series
    assert run(seed=1).series != first.series


def test_attention_learns_to_recall() -> None:
    result = run(steps=400)
    assert result.score is not None
    assert result.score > 0.9
    assert 0.2 < result.metrics["area_under_curve"] < result.score
    loss, score = result.series[:2]
    assert (loss.name, score.name) == ("training_loss", "evaluation_score")
    assert len(loss.steps) == 20
    assert loss.steps[-1] == score.steps[-1] == 400
    assert loss.values[-1] < loss.values[0] / 2
    assert score.values[-1] == result.score
    reached = [step for step, value in zip(score.steps, score.values, strict=True) if value >= 0.95]
    assert result.metrics["steps_to_95"] == (reached[0] if reached else math.inf)


def test_a_model_that_does_not_learn_never_gets_to_95() -> None:
    assert run(steps=5).metrics["steps_to_95"] == math.inf


@pytest.mark.parametrize(("steps", "evaluations"), [(1, (1,)), (20, (7, 14, 20)), (400, tuple(range(40, 401, 40)))])
def test_evaluations_are_few_where_training_is_short(steps: int, evaluations: tuple[int, ...]) -> None:
    """32 sequences to evaluate against 16 a step, a step counting thrice: a tenth of 20 steps pays for three."""
    assert run(steps=steps).series[1].steps == evaluations


def test_divergence_is_a_result_with_its_step_and_leaves_the_parameters_finite() -> None:
    model = Explosive()
    result = train(model, make_runner(MQAR), training=Training(), steps=10, seed=0)
    assert result.score is None
    assert result.failure is not None
    assert result.failure.kind is FailureKind.DIVERGED
    assert "step 3 of 10" in result.failure.reason
    assert result.metrics["diverged_step"] == 3.0
    assert "taken once more, everything was finite" in result.failure.reason
    assert math.isnan(result.series[0].values[-1])
    assert all(bool(p.isfinite().all()) for p in model.parameters())


class Scripted:
    """A task whose scores at the evaluations are given; what is learnt plays no part."""

    batch, ramp, solved = 16, 0.2, 0.95

    def __init__(self, *scores: float) -> None:
        self.scores = iter(scores)
        self.real = make_runner(MQAR)

    def training_batch(self, step: int, *, total_steps: int, seed: int) -> Batch:
        return self.real.training_batch(step, total_steps=total_steps, seed=seed)

    def evaluation_batches(self) -> Sequence[Batch]:
        return self.real.evaluation_batches()[:1]

    def metrics(self, tally: Tally) -> Mapping[str, float]:
        return {}

    def score(self, tally: Tally) -> float:
        self.last = next(self.scores, getattr(self, "last", 0.0))
        return self.last


@pytest.mark.parametrize(
    ("scores", "trained"),
    [
        ([0.0, 0.5, 0.99, 0.995, 0.2], 40),  # solved twice in a row
        ([0.01] * 10, 70),  # at chance after the ramp and half of the steps
        ([0.01, 0.1] + [0.01] * 8, 100),  # rose once
        ([0.5] * 10, 100),
    ],
)
def test_a_run_ends_early_by_its_own_curve_and_keeps_its_last_score(scores: list[float], trained: int) -> None:
    runner = Scripted(*scores)
    with deterministic(0):
        result = train(Attention(16, 8), runner, training=Training(), steps=100, seed=0, stopping=Stopping())
    assert result.metrics["trained_steps"] == trained
    assert result.series[1].steps[-1] == trained
    seen = [0.0, *result.series[1].values]
    area = sum(10 * (a + b) / 2 for a, b in itertools.pairwise(seen)) + (100 - trained) * seen[-1]
    assert result.metrics["area_under_curve"] == pytest.approx(area / 100)


def test_no_run_ends_early_unless_it_is_asked_for() -> None:
    with deterministic(0):
        result = train(Attention(16, 8), Scripted(*[1.0] * 10), training=Training(), steps=100, seed=0)
    assert result.metrics["trained_steps"] == 100


def test_a_passed_deadline_is_a_result() -> None:
    result = train(
        Attention(16, 8), make_runner(MQAR), training=Training(), steps=10, seed=0, deadline=time.monotonic()
    )
    assert result.failure is not None
    assert result.failure.kind is FailureKind.TIMEOUT
    assert "after 0 of 10" in result.failure.reason


def test_the_rate_rises_holds_and_falls() -> None:
    rates = [rate(step, steps=100, warmup=10) for step in range(100)]
    assert rates[:3] == pytest.approx([0.1, 0.2, 0.3])
    assert rates[9:76] == [1.0] * 67
    assert rates[75:] == pytest.approx([part / 25 for part in range(25, 0, -1)])
    assert rate(0, steps=1, warmup=0) == 1.0


def test_only_matrices_decay() -> None:
    """With a gradient of zero, AdamW changes what it decays and nothing else."""

    class Constant(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.matrix, self.vector = nn.Parameter(torch.ones(2, 2)), nn.Parameter(torch.ones(2))

        def forward(self, inputs: torch.Tensor) -> torch.Tensor:
            nothing = 0.0 * (self.matrix.sum() + self.vector.sum())
            return nothing.expand(*inputs.shape, 16)

    model = Constant()
    train(model, make_runner(MQAR), training=Training(weight_decay=0.5, warmup=0), steps=1, seed=0)
    assert torch.equal(model.vector, torch.ones(2))
    torch.testing.assert_close(model.matrix.detach(), torch.full((2, 2), 1 - 1e-2 * 0.5))


def test_an_evaluation_is_the_mean_over_scored_positions() -> None:
    """Against one position at a time, in double precision by hand."""
    torch.manual_seed(0)
    model = Attention(16, 8)
    batches = make_runner(MQAR).evaluation_batches()
    nats, correct, scored = 0.0, 0, 0
    for batch in batches:
        for logits, targets in zip(model(batch.inputs).detach().double(), batch.targets, strict=True):
            for row, target in zip(logits, targets.tolist(), strict=True):
                if target != -100:
                    nats += float(row.exp().sum().log() - row[target])
                    correct += int(row.argmax()) == target
                    scored += 1
    tally = evaluate(model, batches)
    assert (tally.correct, tally.scored) == (correct, scored) == (correct, 64)
    assert tally == Tally(total=pytest.approx(nats, rel=1e-5), correct=correct, scored=scored)
    assert model.training


def test_determinism_is_put_back() -> None:
    threads, state = torch.get_num_threads(), torch.get_rng_state()
    filling = torch.utils.deterministic.fill_uninitialized_memory
    with contextlib.suppress(KeyError), deterministic(3, threads=threads + 1):
        assert torch.get_num_threads() == threads + 1
        assert torch.are_deterministic_algorithms_enabled()
        assert torch.tensor(1e-38) / 10 == 0  # a denormal number
        torch.rand(4)
        raise KeyError
    assert torch.get_num_threads() == threads
    assert not torch.are_deterministic_algorithms_enabled()
    assert torch.tensor(1e-38) / 10 > 0
    assert torch.utils.deterministic.fill_uninitialized_memory == filling
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library keeps memory in its own way")
def test_memory_that_is_kept_is_not_asked_for_again() -> None:
    """Page faults of filling 32 MiB again and again, in a process of its own: thousands each time, or none at last."""
    program = (
        "import resource, sys, torch\n"
        "from archloom.evaluator.training import keep_memory\n"
        "if sys.argv[1] == 'keep': keep_memory()\n"
        "for _ in range(6): torch.ones(1 << 23)\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt\n"
        "for _ in range(4): torch.ones(1 << 23)\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)\n"
    )
    kept, given_back = (
        int(subprocess.run([sys.executable, "-c", program, how], capture_output=True, text=True, check=True).stdout)
        for how in ("keep", "give back")
    )
    assert kept < given_back / 10


def test_the_environment_names_what_a_result_depends_on() -> None:
    with deterministic(0, threads=1):
        found = environment()
    assert found["torch"] == torch.__version__
    assert found["threads"] == "1"
    assert found["device"] == "cpu"
    assert found["kernels"] == "chunked"
    assert found["cpu_capability"] == torch.backends.cpu.get_cpu_capability()
    assert {"python", "machine", "host"} < found.keys()


Replace = Callable[[str, str, object], None]


@pytest.fixture
def replace_module(monkeypatch: pytest.MonkeyPatch) -> Replace:
    """Put a module with one function in the place of the compiler or of the gates."""

    def replace(module: str, name: str, function: object) -> None:
        stand_in = ModuleType(module)
        setattr(stand_in, name, function)
        monkeypatch.setitem(sys.modules, module, stand_in)

    return replace


def spec(*, task: str = "mqar", steps: int = 20, timeout: float = 600.0) -> TrialSpec:
    key = EvaluationKey(candidate="c", task=task, rung=0, seed=5)
    return TrialSpec(key=key, term=TERM, protocol=PROTOCOL, steps=steps, timeout_seconds=timeout)


def build(term: str, *, protocol: Protocol, task: Task, seed: int) -> nn.Module:
    assert (term, protocol, task, seed) == (TERM, PROTOCOL, MQAR, 5)
    return Attention(task.vocabulary, protocol.width)


def test_a_trial_builds_trains_and_measures(replace_module: Replace) -> None:
    replace_module("archloom.evaluator.model", "build_model", build)
    first, second = run_trial(spec()), run_trial(spec())
    assert first.failure is None
    assert first.score == run(seed=5, steps=20).score
    assert first.metrics["model_parameters"] == 16 * 8 + 17 * 24 + 9 * 16
    assert first.metrics["steps_per_second"] == pytest.approx(20 / first.metrics["train_seconds"])
    assert first.seconds >= first.metrics["train_seconds"]
    assert first.environment["threads"] == "1"
    assert (first.score, first.series) == (second.score, second.series)


def test_a_trial_out_of_time_is_a_timeout(replace_module: Replace) -> None:
    replace_module("archloom.evaluator.model", "build_model", build)
    result = run_trial(spec(timeout=0.0))
    assert result.failure is not None
    assert result.failure.kind is FailureKind.TIMEOUT
    assert result.metrics["model_parameters"] > 0


def test_the_gates_answer_for_themselves(replace_module: Replace) -> None:
    asked = spec(task=GATES, steps=0)
    answer = Measurement(key=asked.key, score=None, metrics={}, environment={}, seconds=1.0)
    replace_module("archloom.evaluator.gates", "run_gates", lambda given: answer if given is asked else None)
    assert run_trial(asked) is answer


def test_whatever_is_raised_is_a_failure_with_its_traceback(replace_module: Replace) -> None:
    def burst(term: str, *, protocol: Protocol, task: Task, seed: int) -> nn.Module:
        raise RecursionError("too deep")

    replace_module("archloom.evaluator.model", "build_model", burst)
    result = run_trial(spec())
    assert result.score is None
    assert result.failure is not None
    assert (result.failure.kind, result.failure.reason) == (FailureKind.ERROR, "RecursionError: too deep")
    assert result.failure.traceback is not None
    assert "in burst" in result.failure.traceback
    assert result.environment["torch"] == torch.__version__


def test_a_fault_of_the_machine_is_not_held_against_the_candidate() -> None:
    def work(given: TrialSpec) -> Measurement:
        raise EnvironmentProblem("no text here")

    failure = run_trial(spec(), work=work).failure
    assert failure is not None
    assert (failure.kind, failure.reason) == (FailureKind.WORKER_LOST, "no text here")
