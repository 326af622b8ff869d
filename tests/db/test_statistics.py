"""The comparison of arms against brute force."""

import itertools
import math
import random
from collections.abc import Callable, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from archloom.db.records import GATES, FailureKind, Origin, Trial
from archloom.db.statistics import Comparison, compare_arms, expected_best, superiority

MakeTrial = Callable[..., Trial]
Compare = Callable[..., Comparison]

scores = st.lists(st.sampled_from([0.0, 0.1, 0.5, 0.5, 0.9, 1.0]), min_size=1, max_size=9)


@pytest.fixture
def compare(make_trial: MakeTrial) -> Compare:
    """Evolution with the given scores against random ones."""

    def make(arm: Sequence[float], control: Sequence[float], *, seed: int = 0) -> Comparison:
        drawn = [(Origin.EVOLUTION, score) for score in arm] + [(Origin.RANDOM, score) for score in control]
        trials = [make_trial(n, {("mqar", 0): score}, origin=origin) for n, (origin, score) in enumerate(drawn)]
        return compare_arms(trials, arm=Origin.EVOLUTION, control=Origin.RANDOM, seed=seed)

    return make


@given(scores, scores)
def test_superiority_is_the_share_of_pairs_won(arm: list[float], control: list[float]) -> None:
    wins = [(a > c) + (a == c) / 2 for a in arm for c in control]
    assert superiority(arm, control) == pytest.approx(sum(wins) / len(wins), abs=1e-12)


@given(scores, st.integers(1, 9))
def test_expected_best_is_the_mean_over_all_subsets(values: list[float], n: int) -> None:
    if n > len(values):
        assert math.isnan(expected_best(values, n))
        return
    subsets = [max(subset) for subset in itertools.combinations(values, n)]
    assert expected_best(values, n) == pytest.approx(sum(subsets) / len(subsets), abs=1e-12)


def test_bootstrap_interval_is_that_of_a_plain_one(compare: Compare) -> None:
    draw = random.Random(1)
    arm, control = [draw.random() for _ in range(12)], [draw.random() ** 1.5 for _ in range(15)]
    found = compare(arm, control)
    resampled = sorted(
        superiority(draw.choices(arm, k=len(arm)), draw.choices(control, k=len(control))) for _ in range(4000)
    )
    # Two bootstraps of 2,000 and 4,000: a 2.5% quantile has a standard error of about 0.006 here.
    assert found.low == pytest.approx(resampled[100], abs=0.03)
    assert found.high == pytest.approx(resampled[3899], abs=0.03)
    assert found.low < found.probability == superiority(arm, control) < found.high


def test_verdicts(compare: Compare) -> None:
    low, high = [0.1, 0.2, 0.15, 0.12, 0.18], [0.8, 0.9, 0.85, 0.82, 0.88]
    assert compare(high, low).verdict == "better"
    assert compare(low, high).verdict == "worse"
    assert compare(high, high).verdict == "undecided"
    assert compare(high, high).probability == 0.5


def test_a_handful_decides_nothing(compare: Compare) -> None:
    """Complete separation of three against three happens by chance in one of ten cases; of four, in one of 35."""
    assert compare([0.9, 0.8, 0.7], [0.1, 0.2, 0.3]).verdict == "undecided"
    assert compare([0.9, 0.8, 0.7, 0.6], [0.1, 0.2, 0.3, 0.4]).verdict == "better"


def test_no_difference_is_called_undecided_nearly_always(compare: Compare) -> None:
    draw = random.Random(2)
    verdicts = [
        compare([draw.random() for _ in range(20)], [draw.random() for _ in range(20)]).verdict for _ in range(60)
    ]
    # 5% of 60 is 3; more than 10 would be one chance in a thousand.
    assert sum(verdict != "undecided" for verdict in verdicts) <= 10


def test_best_is_compared_at_equal_numbers(compare: Compare) -> None:
    found = compare([0.1, 0.5, 0.9], [0.4, 0.6])
    assert (found.arm.n, found.control.n, found.equal_n) == (3, 2, 2)
    assert (found.arm.best, found.control.best) == (0.9, 0.6)
    assert found.arm.best_of_n == pytest.approx((0.5 + 0.9 + 0.9) / 3)
    assert found.control.best_of_n == pytest.approx(0.6)
    assert found.arm.mean == pytest.approx(0.5)


def test_who_is_judged(make_trial: MakeTrial) -> None:
    arm = Origin.EVOLUTION
    trials = [
        make_trial(0, {(GATES, 0): None, ("mqar", 0): 0.5, ("text", 0): 0.7}, origin=arm),
        make_trial(1, {(GATES, 0): FailureKind.CAUSALITY}, origin=arm),
        make_trial(2, {("mqar", 0): 0.9, ("text", 0): FailureKind.DIVERGED}, origin=arm),
        make_trial(3, {("mqar", 0): math.nan}, origin=arm),
        make_trial(4, {("mqar", 0): 1.0, ("mqar", 1): FailureKind.TIMEOUT}, origin=arm),
        make_trial(5, {("mqar", 0): FailureKind.WORKER_LOST}, origin=arm),
        make_trial(6, {(GATES, 0): None}, origin=arm),
        make_trial(7, {}, origin=arm),
        make_trial(8, {("mqar", 0): 0.4}, origin=Origin.LANGUAGE_MODEL),
        make_trial(9, {("mqar", 0): 0.4}),
    ]
    found = compare_arms(trials, arm=arm, control=Origin.RANDOM)
    assert (found.arm.n, found.arm.failed, found.control.n) == (5, 3, 1)
    assert found.arm.mean == pytest.approx((0.6 + 0 + 0 + 0 + 1.0) / 5)
    assert found.probability == pytest.approx(2 / 5)
    # One rung up only candidate 4 was tried, and it failed there.
    above = compare_arms(trials, arm=arm, control=Origin.RANDOM, rung=1)
    assert (above.arm.n, above.arm.failed, above.control.n) == (1, 1, 0)


def test_empty_arm_gives_no_number(compare: Compare) -> None:
    found = compare([], [0.5])
    assert (found.arm.n, found.equal_n, found.verdict) == (0, 0, "undecided")
    unknown = (found.probability, found.low, found.high, found.arm.best, found.arm.mean, found.control.best_of_n)
    assert all(map(math.isnan, unknown))


def test_same_seed_same_interval(compare: Compare) -> None:
    arm, control = [0.3, 0.5, 0.9, 0.2, 0.8], [0.1, 0.6, 0.4, 0.7, 0.35]
    assert compare(arm, control, seed=3) == compare(arm, control, seed=3)
    assert compare(arm, control, seed=3) != compare(arm, control, seed=4)
