"""No sampled architecture is stopped by a gate whose law every term keeps by construction.

It may be stopped for what is its own: parameters that cannot match the protocol's, numbers out of range, a parameter
that nothing depends on.
"""

from collections import Counter
from random import Random

import pytest

from archloom.db.records import FailureKind
from archloom.evaluator.gates import Subject, first_failure
from archloom.evaluator.training import deterministic
from archloom.search_space.sampling import Sampler

from .test_adversaries import PROTOCOL

ITS_OWN = {FailureKind.BUDGET, FailureKind.FORWARD, FailureKind.STABILITY, FailureKind.GRADIENT}


def stopped(count: int, *, seed: int) -> list[tuple[FailureKind, str]]:
    """What stops sampled architectures: the kind, and the reason with the term."""
    sampler, rng, found = Sampler.default(depth=2, max_size=40, width=32, length=32), Random(seed), []
    for _ in range(count):
        architecture = sampler.architecture(rng)
        with deterministic(0):
            failure = first_failure(Subject(architecture=architecture, protocol=PROTOCOL, seed=0))
        if failure is not None:
            found.append((failure.kind, f"{failure.reason}: {architecture.text}"))
    return found


def check(found: list[tuple[FailureKind, str]], *, at_most: int) -> None:
    print(dict(Counter(kind.value for kind, _ in found)))
    print(*(f"{kind.value}: {reason}" for kind, reason in found), sep="\n")
    assert [each for each in found if each[0] not in ITS_OWN] == []
    assert len(found) <= at_most


@pytest.mark.slow
def test_sixty_sampled_architectures_raise_no_false_alarm() -> None:
    check(stopped(60, seed=2024), at_most=3)


@pytest.mark.long
@pytest.mark.timeout(7200)
def test_a_thousand_sampled_architectures_raise_no_false_alarm() -> None:
    check(stopped(1000, seed=2025), at_most=30)
