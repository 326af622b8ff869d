"""Each gate lets every zoo system pass and stops the fault it is there for; the faults are put in by hand."""

import pytest
import torch
from torch import Tensor, nn

from archloom.db.records import GATES as GATE_TASK
from archloom.db.records import EvaluationKey, FailureKind, Protocol, Task, TrialSpec
from archloom.evaluator import gates
from archloom.evaluator.gates import Subject, fingerprint, first_failure, run_gates
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


def with_model(kind: type[Model], name: str = "linear_attention") -> Subject:
    """A subject whose model has a fault."""
    one = subject(name)
    model = kind(one.architecture, widths=one.widths, vocabulary=one.task.vocabulary, length=one.task.length)
    one.__dict__["model"] = model.double()
    return one


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


class Unfinished(Model):
    def forward(self, *arguments, **options):  # type: ignore[no-untyped-def]
        return super().forward(*arguments, **options) / 0


class Acausal(Model):
    def features(self, *arguments, **options) -> Tensor:  # type: ignore[no-untyped-def]
        whole = super().features(*arguments, **options)
        return whole + 1e-6 * whole.mean(1, keepdim=True)


class AcausalGradient(Model):
    """The value does not move, the gradient leaks."""

    def __init__(self, *arguments, **options) -> None:  # type: ignore[no-untyped-def]
        super().__init__(*arguments, **options)
        self.stack.register_forward_hook(lambda module, inputs, out: out + 0 * inputs[0].flip(1) + _still(inputs[0]))


def _still(x: Tensor) -> Tensor:
    total = x.sum(1, keepdim=True)
    return total - total.detach()


class Batched(Model):
    def forward(self, *arguments, **options):  # type: ignore[no-untyped-def]
        logits = super().forward(*arguments, **options)
        return logits + 1e-5 * logits.mean(0, keepdim=True)


class Forgetful(Model):
    def features(self, tokens: Tensor, context: Context = WHOLE) -> Tensor:
        return super().features(tokens, Context(dense=context.dense))


class TwoFaced(Model):
    def features(self, tokens: Tensor, context: Context = WHOLE) -> Tensor:
        return super().features(tokens, context) * (1 + 1e-6 * context.dense)


class Dead(Model):
    def __init__(self, *arguments, **options) -> None:  # type: ignore[no-untyped-def]
        super().__init__(*arguments, **options)
        self.useless = nn.Parameter(torch.ones(3))


class Heavier(Model):
    def __init__(self, *arguments, **options) -> None:  # type: ignore[no-untyped-def]
        super().__init__(*arguments, **options)
        self.stack.extra = nn.Parameter(torch.ones(3))


@pytest.mark.parametrize(
    ("fault", "kind", "words"),
    [
        (Heavier, FailureKind.BUILD, "parameters"),
        (Unfinished, FailureKind.FORWARD, "not finite"),
        (Batched, FailureKind.BATCH, "alone"),
        (Acausal, FailureKind.CAUSALITY, "changes outputs before"),
        (AcausalGradient, FailureKind.CAUSALITY, "gradient"),
        (Forgetful, FailureKind.DECODE, "segments"),
        (TwoFaced, FailureKind.LOWERING, "dense"),
        (Dead, FailureKind.GRADIENT, "useless"),
    ],
)
def test_a_fault_is_stopped_by_its_gate(fault: type[Model], kind: FailureKind, words: str) -> None:
    failure = first_failure(with_model(fault))
    assert failure is not None
    assert failure.kind is kind
    assert words in failure.reason


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
    assert gates.cost_exponent(zoo.load("gla")) < 1.1
    assert gates.cost_exponent(zoo.load("mha")) > 1.5


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
