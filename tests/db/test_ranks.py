"""Agreement of rankings against scipy, resample by resample, and what promotion would lose."""

import math
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy import stats

from archloom.db.ranks import Agreement, agreement, rung_agreement, size_agreement
from archloom.db.records import FailureKind, Origin, Protocol, Trial

SeededTrial = Callable[..., Trial]
SeededProtocol = Callable[..., Protocol]

pairs = st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), min_size=4, max_size=12)


def agree(lower: Sequence[float], upper: Sequence[float], *, keep: float = 0.5, resamples: int = 200) -> Agreement:
    sides = [{str(n): score for n, score in enumerate(side)} for side in (lower, upper)]
    return agreement(*sides, names=("lower", "upper"), keep=keep, resamples=resamples)


@settings(max_examples=60)
@given(pairs)
def test_correlations_are_those_of_scipy_with_ties(drawn: list[tuple[int, int]]) -> None:
    lower, upper = zip(*drawn, strict=True)
    assume(len(set(lower)) > 1 and len(set(upper)) > 1)
    found = agree(lower, upper, resamples=50)
    assert found.spearman == pytest.approx(stats.spearmanr(lower, upper).statistic, abs=1e-12)
    assert found.kendall == pytest.approx(stats.kendalltau(lower, upper).statistic, abs=1e-12)
    assert found.reason is None


def test_intervals_are_the_quantiles_of_scipy_on_the_same_resamples() -> None:
    rng = np.random.default_rng(0)
    lower = rng.integers(0, 6, 15).astype(float)
    upper = lower + rng.normal(0, 2, 15)
    found = agree(lower, upper, resamples=300)
    drawn = np.random.default_rng(0).integers(15, size=(300, 15))
    rho = [stats.spearmanr(lower[places], upper[places]).statistic for places in drawn]
    tau = [stats.kendalltau(lower[places], upper[places]).statistic for places in drawn]
    assert (found.spearman_low, found.spearman_high) == pytest.approx(np.quantile(rho, [0.025, 0.975]), abs=1e-12)
    assert (found.kendall_low, found.kendall_high) == pytest.approx(np.quantile(tau, [0.025, 0.975]), abs=1e-12)


def test_intervals_agree_with_another_bootstrap() -> None:
    rng = np.random.default_rng(1)
    lower = rng.normal(size=40)
    upper = lower + rng.normal(size=40)
    found = agree(lower, upper, resamples=2000)
    other = stats.bootstrap(
        (lower, upper),
        lambda x, y: stats.spearmanr(x, y).statistic,
        paired=True,
        vectorized=False,
        n_resamples=1000,
        method="percentile",
        rng=np.random.default_rng(2),
    ).confidence_interval
    # The quantiles of 1,000 resamples are known to about 0.01.
    assert (found.spearman_low, found.spearman_high) == pytest.approx((other.low, other.high), abs=0.04)


def test_order_alone_counts() -> None:
    same = agree([1, 2, 3, 4, 5], [10, 20, 30, 40, 500])
    assert (same.spearman, same.kendall, same.regret, same.n) == (pytest.approx(1), pytest.approx(1), 0, 5)
    against = agree([1, 2, 3, 4, 5], [5, 4, 3, 2, 1])
    assert (against.spearman, against.kendall) == (pytest.approx(-1), pytest.approx(-1))


def test_too_few_or_no_order_give_no_number_and_a_reason() -> None:
    for found, reason in (
        (agree([1, 2, 3], [1, 2, 3]), "3 candidates are measured on both; an interval takes 4"),
        (agree([], []), "0 candidates"),
        (agree([1, 1, 1, 1], [1, 2, 3, 4]), "all scores of one side are the same"),
        (agree([1, 2, 3, 4], [math.nan, -math.inf, math.nan, math.nan]), "all scores of one side are the same"),
    ):
        assert found.reason is not None
        assert reason in found.reason
        numbers = (found.spearman, found.spearman_low, found.kendall, found.kendall_high, found.regret)
        assert all(map(math.isnan, numbers))


def test_failures_are_the_worst_and_tie() -> None:
    broken = agree([0.1, 0.2, 0.3, 0.4, 0.5], [math.nan, -math.inf, 0.1, 0.2, 0.3])
    assert broken.spearman == pytest.approx(stats.spearmanr([1, 2, 3, 4, 5], [0, 0, 1, 2, 3]).statistic)
    assert broken.kendall == pytest.approx(stats.kendalltau([1, 2, 3, 4, 5], [0, 0, 1, 2, 3]).statistic)
    assert broken.regret == 0


def test_regret_is_what_the_kept_share_lacks() -> None:
    lower, upper = [0.9, 0.8, 0.7, 0.6, 0.5, 0.4], [0.3, 0.6, 0.1, 0.7, 0.9, 0.2]
    assert agree(lower, upper, keep=0.5).regret == pytest.approx(0.9 - 0.6)
    assert agree(lower, upper, keep=0.7).regret == pytest.approx(0.9 - 0.7)
    assert agree(lower, upper, keep=0.01).regret == pytest.approx(0.9 - 0.3)
    assert agree(lower, upper, keep=1.0).regret == 0
    # Of equals below the first in order rises.
    assert agree([0.5, 0.5, 0.5, 0.4], [0.1, 0.2, 0.9, 0.3], keep=0.5).regret == pytest.approx(0.9 - 0.2)
    with pytest.raises(ValueError, match="above 0 and at most 1, got 0"):
        agree(lower, upper, keep=0)


def test_rungs_are_compared_over_who_finished_both(seeded_trial: SeededTrial, seeded_protocol: SeededProtocol) -> None:
    protocol = seeded_protocol("mqar", rungs=3, keep=0.5)

    def climb(n: int, *scores: float | FailureKind, unfinished: frozenset[int] = frozenset()) -> Trial:
        rungs = [seeded_trial(n, {"mqar": {0: s, 1: s}}, rung=rung) for rung, s in enumerate(scores)]
        results = tuple(result for each in rungs for result in each.results)
        return replace(rungs[0], results=results, unfinished=unfinished)

    trials = [
        climb(0, 0.9, 0.5, 0.4),
        climb(1, 0.8, 0.6, 0.5),
        climb(2, 0.7, 0.9, FailureKind.DIVERGED),
        climb(3, 0.6, 0.2, 0.6),
        climb(4, 0.5, 0.7),
        climb(5, 0.4),
        climb(6, 0.3, 0.99, unfinished=frozenset({1})),
    ]
    found = rung_agreement(trials, protocol, resamples=100)
    assert [(each.lower, each.upper, each.n) for each in found] == [
        ("rung 0", "rung 1", 5),
        ("rung 0", "rung 2", 4),
        ("rung 1", "rung 2", 4),
    ]
    below, above = [0.9, 0.8, 0.7, 0.6, 0.5], [0.5, 0.6, 0.9, 0.2, 0.7]
    assert found[0].spearman == pytest.approx(stats.spearmanr(below, above).statistic)
    assert found[0].regret == pytest.approx(0.9 - 0.6)
    # Of four a quarter rises over two rungs: the first, where the last is best; a failure is the worst.
    assert found[1].regret == pytest.approx(0.6 - 0.4)
    assert found[2].kendall == pytest.approx(stats.kendalltau([0.5, 0.6, 0.9, 0.2], [0.4, 0.5, 0.0, 0.6]).statistic)
    # With a baseline on every rung candidates are ranked by combined scores, which here keep the order of the means.
    baseline = replace(climb(7, 0.45, 0.45, 0.45))
    baseline = replace(baseline, candidate=replace(baseline.candidate, origin=Origin.ZOO))
    with_baseline = rung_agreement([*trials, baseline], protocol, resamples=100)
    means = stats.spearmanr([*below, 0.45], [*above, 0.45]).statistic
    assert with_baseline[0].spearman == pytest.approx(means)
    assert rung_agreement(trials, protocol, resamples=100) == found


def test_sizes_are_compared_rung_by_rung_over_who_finished_in_both(
    seeded_trial: SeededTrial, seeded_protocol: SeededProtocol
) -> None:
    small = seeded_protocol("mqar", rungs=2, keep=0.5)
    large = replace(small, width=64, rungs=small.rungs[:1])
    below, above = [0.9, 0.8, 0.7, 0.6, 0.5, 0.1], [0.5, 0.6, 0.9, 0.2, 0.7]
    here = [seeded_trial(n, {"mqar": {0: score, 1: score}}) for n, score in enumerate(below)]
    there = [seeded_trial(n, {"mqar": {0: score, 1: score}}) for n, score in enumerate(above)]
    there.append(replace(seeded_trial(5, {"mqar": {0: 0.9, 1: 0.9}}), unfinished=frozenset({0})))
    (found,) = size_agreement((here, small), (there, large), resamples=100)
    assert (found.lower, found.upper, found.n) == ("rung 0 at width 32", "at width 64", 5)
    assert found.spearman == pytest.approx(stats.spearmanr(below[:5], above).statistic)
    assert found.regret == pytest.approx(0.9 - 0.6)
    with pytest.raises(ValueError, match="other tasks"):
        size_agreement((here, small), (there, seeded_protocol("parity")))
