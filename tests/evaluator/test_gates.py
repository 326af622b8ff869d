"""Every zoo system passes the gates, and what they measure is right. Faults are in `test_adversaries.py`."""

import re
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from archloom.db.records import GATES as GATE_TASK
from archloom.db.records import EvaluationKey, FailureKind, Protocol, Task, TrialSpec
from archloom.evaluator import gates
from archloom.evaluator.gates import Subject, counting, fingerprint, first_failure, growth, run_gates
from archloom.evaluator.gates.causality import CHUNKS, cuts
from archloom.evaluator.model import Model
from archloom.evaluator.modules import WHOLE, Context
from archloom.evaluator.modules.passes import Pass
from archloom.search_space import zoo
from archloom.search_space.identity import canonical
from archloom.search_space.patterns import CAUSAL
from archloom.search_space.text import parse

PROTOCOL = Protocol(
    version=1,
    grammar=1,
    reference=zoo.load("mha").text,
    width=32,
    depth=2,
    tasks=(
        Task(name="mqar", vocabulary=32, length=24, batch=4),
        Task(name="text", vocabulary=48, length=40, batch=4),
    ),
    rungs=(),
)


def subject(name: str = "gated_deltanet") -> Subject:
    return Subject(architecture=zoo.load(name), protocol=PROTOCOL, seed=0)


def spec(term: str) -> TrialSpec:
    key = EvaluationKey(candidate="0" * 64, task=GATE_TASK, rung=0, seed=0)
    return TrialSpec(key=key, term=term, protocol=PROTOCOL, steps=0)


@pytest.mark.parametrize("name", zoo.names(CAUSAL))
def test_every_zoo_system_passes(name: str) -> None:
    measurement = run_gates(spec(zoo.load(name).text))
    assert measurement.failure is None
    assert measurement.score is None
    assert abs(measurement.metrics["parameters"] / 24_736 - 1) < 0.1
    assert measurement.fingerprint is not None


def test_too_deep_or_too_heavy_is_a_budget_failure() -> None:
    deep = run_gates(spec(zoo.load("mha", depth=3).text)).failure
    assert deep is not None
    assert deep.kind is FailureKind.BUDGET
    assert "3 blocks" in deep.reason
    values = "value(x)"
    for _ in range(40):
        values = f"apply(dense, {values})"  # its matrices are as large at every width
    mixer = f"mix({values}, heads=4)"
    heavy = run_gates(spec(f"repeat(block({mixer}, mlp), times=2)")).failure
    assert heavy is not None
    assert heavy.kind is FailureKind.BUDGET
    assert "fewer projections" in heavy.reason


def test_a_linear_pass_that_runs_quadratically_is_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    assert gates.cost(subject("linear_attention")) is None
    monkeypatch.setattr(Pass, "linear", Pass.densely)
    reason = gates.cost(subject("linear_attention"))
    assert reason is not None
    assert "length^" in reason


def test_exponents_tell_linear_from_quadratic() -> None:
    assert gates.cost_exponent(subject("gla")) < 1.01
    assert gates.cost_exponent(subject("mha")) > 1.5


@pytest.mark.parametrize("power", [0.5, 1, 1.5, 2])
def test_the_exponent_of_what_is_added_is_that_of_a_power_beside_a_constant(power: float) -> None:
    counts = [round(10_000 + 300 * length**power) for length in (512, 1024, 2048)]
    assert growth.added_exponent(counts) == pytest.approx(power, abs=0.01)  # of whole numbers


def test_what_hardly_grows_has_no_exponent() -> None:
    assert growth.added_exponent([500, 500, 500]) == 0
    assert growth.added_exponent([500, 500, 503]) == 0


def test_a_small_quadratic_part_shows_beside_a_large_linear_one() -> None:
    """One element for each pair of tokens, beside 20,000 for each token."""
    counts = [20_000 * length + length**2 for length in (512, 1024, 2048)]
    assert growth.added_exponent(counts) > growth.LINEAR_EXPONENT


def test_work_is_counted_as_the_shapes_say() -> None:
    """A product of [T, D] and [D, D]: 2 T D D FLOPs; T D + D D elements read, T D written; one call, and no view."""
    layer = nn.Linear(8, 8, bias=False)
    (work,) = counting.count_work(layer, width=8, lengths=[32])
    assert work == counting.Work(flops=2 * 32 * 8 * 8, elements=32 * 8 + 8 * 8 + 32 * 8, calls=1)


def test_cuts_are_everywhere_or_at_the_borders_of_chunks_and_inside() -> None:
    generator = torch.Generator().manual_seed(0)
    assert cuts(1, generator) == []
    assert cuts(35, generator) == list(range(1, 35))
    found = cuts(200, generator)
    assert {1, 199, 192, *CHUNKS} <= set(found)
    assert len(found) <= 12


def test_fingerprints_agree_on_functions_and_differ_on_others() -> None:
    def mark(mixer: str) -> str:
        return fingerprint(parse(f"repeat(block(mix({mixer}), mlp), times=1)"))

    plain = "apply(masked(dot(project(x), project(x)), visible), value(x))"
    assert mark(plain) == mark(plain)
    assert mark(plain) != mark("apply(masked(dot(rotary(project(x)), rotary(project(x))), visible), value(x))")
    assert mark(f"norm({plain})") != mark(plain)


def test_a_fingerprint_is_that_of_the_canonical_form() -> None:
    left, right = "apply(masked(dot(project(x), project(x)), visible), value(x))", "silu(value(x))"
    ways = [parse(f"repeat(block(mix(mul({a}, {b})), mlp), times=1)") for a, b in ((left, right), (right, left))]
    assert fingerprint(canonical(ways[0])) == fingerprint(canonical(ways[1]))


def test_nested_windows_answer_within_seconds() -> None:
    body = "value(x)"
    for _ in range(4):
        body = f"apply(rownorm(masked(exp(dot(project(x, share=4), project(x, share=4))), window(width=8))), {body})"
    measurement = run_gates(spec(f"repeat(block(mix({body}, heads=4), mlp), times=1)"))
    assert measurement.failure is None
    assert measurement.seconds < 20


PATTERNS = replace(
    PROTOCOL,
    tasks=(
        *PROTOCOL.tasks,
        Task(name="mirror", vocabulary=32, length=40, batch=4),
        Task(name="set_recall", vocabulary=32, length=24, batch=4),
        Task(name="translation", vocabulary=32, length=24, batch=4),
    ),
)


@pytest.mark.parametrize("name", ["mha", "gated_deltanet", "linear_attention"])
def test_a_protocol_of_all_patterns_is_passed_by_mixers_that_have_a_meaning_under_each(name: str) -> None:
    assert first_failure(Subject(architecture=zoo.load(name), protocol=PATTERNS, seed=0)) is None


def test_a_mixer_without_a_meaning_under_a_task_s_pattern_is_not_trained() -> None:
    failure = first_failure(Subject(architecture=zoo.load("based"), protocol=PATTERNS, seed=0))
    assert failure is not None
    assert failure.kind is FailureKind.BUDGET
    assert "task set_recall is noncausal cross, under which" in failure.reason


class TwoFacedWhereCross(Model):
    """Lowered and dense forms agree under the causal pattern, and a source is read otherwise in one of them."""

    def features(self, tokens: Tensor, context: Context = WHOLE, *, source: Tensor | None = None) -> Tensor:
        outputs = super().features(tokens, context, source=source)
        return outputs if source is None or context.dense else outputs * (1 + 1e-6 * outputs.sign())


class BatchedWhereNoncausal(Model):
    def features(self, tokens: Tensor, context: Context = WHOLE, *, source: Tensor | None = None) -> Tensor:
        outputs = super().features(tokens, context, source=source)
        return outputs if self.pattern.causal else outputs + 1e-5 * outputs.mean(0, keepdim=True)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (TwoFacedWhereCross, "lowered and dense forms differ by .* under the noncausal cross pattern"),
        (BatchedWhereNoncausal, "under the noncausal pattern"),
    ],
)
def test_a_fault_under_another_pattern_is_stopped(make: type[Model], words: str) -> None:
    failure = first_failure(Subject(architecture=zoo.load("mha"), protocol=PATTERNS, seed=0, make=make))
    assert failure is not None
    assert re.search(words, failure.reason)
