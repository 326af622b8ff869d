"""Every adversary is stopped by the gate that it is there for: none escapes, and none is stopped for another reason."""

from collections import Counter

import pytest

from archloom.db.records import FailureKind, Protocol, Task
from archloom.evaluator.gates import GATES, Subject, causality, fingerprint, fingerprints, first_failure
from archloom.evaluator.training import deterministic
from archloom.search_space import zoo
from archloom.search_space.identity import term_id
from archloom.search_space.text import parse

from .adversaries import ADVERSARIES, OTHERS, RANGES, TWINS, WAITING, Adversary

PROTOCOL = Protocol(
    version=1,
    grammar=1,
    reference=zoo.load("mha").text,
    width=32,
    depth=2,
    tasks=(Task(name="text", vocabulary=48, length=40, batch=4),),
    rungs=(),
)


@pytest.mark.parametrize("adversary", ADVERSARIES, ids=lambda adversary: adversary.name)
def test_no_adversary_escapes(adversary: Adversary) -> None:
    subject = Subject(architecture=zoo.load(adversary.system), protocol=PROTOCOL, seed=0, make=adversary.make)
    with deterministic(0):
        failure = first_failure(subject)
    assert failure is not None, "escaped"
    assert (failure.kind, adversary.words in failure.reason) == (adversary.kind, True), failure.reason


@pytest.mark.parametrize("seed", range(1, 6))
@pytest.mark.parametrize("adversary", [a for a in ADVERSARIES if a.name in WAITING], ids=lambda a: a.name)
def test_what_waits_for_its_chance_gets_it_with_every_seed(adversary: Adversary, seed: int) -> None:
    subject = Subject(architecture=zoo.load(adversary.system), protocol=PROTOCOL, seed=seed, make=adversary.make)
    with deterministic(seed):
        assert causality(subject) is not None


@pytest.mark.parametrize("system", sorted({adversary.system for adversary in ADVERSARIES}))
def test_without_its_fault_the_system_passes(system: str) -> None:
    with deterministic(0):
        assert first_failure(Subject(architecture=zoo.load(system), protocol=PROTOCOL, seed=0)) is None


def test_every_gate_but_the_budget_has_adversaries_of_its_own() -> None:
    assert len({adversary.name for adversary in ADVERSARIES}) == len(ADVERSARIES)
    kinds = Counter(adversary.kind for adversary in ADVERSARIES)
    assert {kind for kind, _ in GATES} - set(kinds) == {FailureKind.BUDGET}


def mark(mixer: str) -> str:
    return fingerprint(parse(f"repeat(block(mix({mixer}), mlp), times=1)"))


@pytest.mark.parametrize(("one", "other"), TWINS)
def test_the_same_function_under_another_term_has_the_same_fingerprint(one: str, other: str) -> None:
    assert term_id(parse(f"mix({one})")) != term_id(parse(f"mix({other})"))
    assert mark(one) == mark(other)


@pytest.mark.parametrize(("one", "other"), OTHERS)
def test_what_differs_only_far_on_has_another_fingerprint(
    one: str, other: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert mark(one) != mark(other)
    monkeypatch.setattr(fingerprints, "LENGTH", 12)
    assert mark(one) == mark(other)


def test_a_range_of_weights_is_part_of_the_function() -> None:
    assert mark(RANGES[0]) != mark(RANGES[1])
