"""Effects and the combined score: known answers, laws, and intervals against simulated campaigns."""

import math
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from archloom.db.effects import BOUND, NULL_VARIANCE, bounded, combined, marks, paired, score, standings
from archloom.db.noise import Noise
from archloom.db.records import FailureKind, Origin, Protocol, Trial

SeededTrial = Callable[..., Trial]
SeededProtocol = Callable[..., Protocol]

NOISE = Noise(task="mqar", rung=0, sd=0.1, degrees=10, candidates=5)
FOUR = (0, 1, 2, 3)

numbers = st.floats(0, 1)
grids = st.lists(numbers, min_size=8, max_size=8)


def by_task(values: list[float]) -> dict[str, dict[int, float]]:
    """Eight scores as two tasks of four seeds."""
    return {"mqar": dict(enumerate(values[:4])), "text": dict(enumerate(values[4:]))}


@given(st.floats(-1e6, 1e6), st.floats(-1e6, 1e6))
def test_bounding_keeps_order_and_stays_within(x: float, y: float) -> None:
    assert -BOUND < bounded(x) < BOUND
    assert bounded(-x) == -bounded(x)
    assert x > y or bounded(x) <= bounded(y)
    assert abs(bounded(x)) <= abs(x) * (1 + 1e-15)


def test_bounding_at_points_known_by_hand() -> None:
    assert [bounded(x) for x in (0, 5, -5, 20, math.inf, -math.inf)] == [0, 2.5, -2.5, 4, 5, -5]
    assert bounded(1e-6) == pytest.approx(1e-6, rel=1e-6)


def test_the_bounded_effect_of_equals_has_unit_variance() -> None:
    rng = np.random.default_rng(0)
    for lead, most in ((0.0, NULL_VARIANCE), (1.0, 0.95), (3.0, 0.5)):
        effects = lead + (rng.standard_normal(40_000) - rng.standard_normal(40_000))
        variance = np.var([bounded(x) for x in effects])
        assert variance < most + 0.02  # a variance of 40,000 is known to 0.7%
        assert lead > 0 or variance > most - 0.02


def test_effects_are_paired_by_seed(seeded_trial: SeededTrial) -> None:
    candidate = seeded_trial(0, {"mqar": {0: 0.5, 1: 0.75, 2: FailureKind.DIVERGED, 3: 0.5, 4: math.nan}})
    opponent = seeded_trial(1, {"mqar": {1: 0.5, 0: 0.25, 3: FailureKind.TIMEOUT, 2: 0.5, 4: math.nan}})
    found = paired(candidate, opponent, noise=NOISE, seeds=(0, 1, 2, 3, 4, 5))
    # asin(sqrt()) of 1/4, 1/2, 3/4 is 30, 45, 60 degrees: 15 degrees are 2.618 tenths of a radian.
    assert found == (pytest.approx(2.618, abs=1e-3), pytest.approx(2.618, abs=1e-3), -math.inf, math.inf, 0.0, 0.0)


def test_a_score_of_known_parts(seeded_trial: SeededTrial, seeded_protocol: SeededProtocol) -> None:
    best = seeded_trial(0, {"mqar": {0: 0.5, 1: 0.6}}, origin=Origin.ZOO)
    worse = seeded_trial(1, {"mqar": {0: 0.4, 1: 0.3}}, origin=Origin.ZOO)
    candidate = seeded_trial(2, {"mqar": {0: 0.7, 1: 0.9}})
    measured_from = marks([worse, candidate, best], seeded_protocol("mqar"), rung=0)
    (mark,) = measured_from
    assert (mark.baseline, mark.noise.degrees, mark.seeds) == (best, 3, (0, 1))
    a, b = (np.arcsin(np.sqrt(values)) for values in ([0.7, 0.9], [0.5, 0.6]))
    effects = (a - b) / mark.noise.sd
    found = score(candidate, measured_from)
    (effect,) = found.effects
    half = stats.t.ppf(0.975, 3) * math.sqrt(2 / 2)
    assert (effect.value, effect.low, effect.high) == pytest.approx(
        (effects.mean(), effects.mean() - half, effects.mean() + half), rel=1e-12
    )
    assert found.value == effect.bounded == pytest.approx(np.mean(5 * effects / (5 + effects)), rel=1e-12)
    assert found.low == pytest.approx(found.value - stats.t.ppf(0.975, 3) / math.sqrt(2), rel=1e-12)
    own = score(best, measured_from)
    assert (own.value, own.low, own.high) == (0, 0, 0)


def test_each_task_is_measured_from_its_best_whole_baseline(
    seeded_trial: SeededTrial, seeded_protocol: SeededProtocol
) -> None:
    protocol = seeded_protocol("mqar", "text")
    recalls = seeded_trial(0, {"mqar": {0: 0.9, 1: 0.9}, "text": {0: 0.3, 1: 0.3}}, origin=Origin.ZOO)
    writes = seeded_trial(1, {"mqar": {0: 0.2, 1: 0.2}, "text": {0: 0.5, 1: 0.5}}, origin=Origin.ZOO)
    half = seeded_trial(2, {"mqar": {0: 1.0}, "text": {0: 0.9, 1: FailureKind.DIVERGED}}, origin=Origin.ZOO)
    searched = seeded_trial(3, {"mqar": {0: 1.0, 1: 1.0}, "text": {0: 1.0, 1: 1.0}})
    trials = [half, writes, recalls, searched]
    assert [mark.baseline for mark in marks(trials, protocol, rung=0)] == [recalls, writes]
    assert marks([half, searched], protocol, rung=0) == ()
    # Of equals the earlier one, in whatever order they are given.
    twin = seeded_trial(4, {"mqar": {0: 0.9, 1: 0.9}}, origin=Origin.ZOO)
    assert marks([twin, recalls, writes], protocol, rung=0)[0].baseline is recalls


def test_no_other_task_pays_for_a_failed_one(seeded_trial: SeededTrial, seeded_protocol: SeededProtocol) -> None:
    baseline = seeded_trial(0, by_task([0.01] * 8), origin=Origin.ZOO)
    measured_from = marks([baseline], seeded_protocol("mqar", "text", seeds=FOUR), rung=0)
    failed = dict.fromkeys(FOUR, FailureKind.DIVERGED)
    bought = seeded_trial(1, {"mqar": dict.fromkeys(FOUR, 1.0), "text": failed})
    assert combined(bought, measured_from) < 0 == combined(baseline, measured_from)


@given(grids, grids, st.integers(0, 7), st.sampled_from([math.nan, FailureKind.DIVERGED, None]))
def test_a_failure_never_beats_a_number(
    seeded_trial: SeededTrial,
    seeded_protocol: SeededProtocol,
    mine: list[float],
    theirs: list[float],
    at: int,
    loss: float | FailureKind | None,
) -> None:
    baseline = seeded_trial(0, by_task(theirs), origin=Origin.ZOO)
    measured_from = marks([baseline], seeded_protocol("mqar", "text", seeds=FOUR), rung=0)
    whole, broken = by_task(mine), dict(by_task(mine))
    task = "mqar" if at < 4 else "text"
    broken[task] = {seed: value for seed, value in whole[task].items() if seed != at % 4}
    if loss is not None:
        broken[task][at % 4] = loss  # type: ignore[assignment]
    assert combined(seeded_trial(1, broken), measured_from) < combined(seeded_trial(1, whole), measured_from)


@given(grids, grids, st.permutations(FOUR))
def test_permuting_the_seeds_of_both_changes_nothing(
    seeded_trial: SeededTrial,
    seeded_protocol: SeededProtocol,
    mine: list[float],
    theirs: list[float],
    order: list[int],
) -> None:
    def found(mine: list[float], theirs: list[float]) -> float:
        baseline = seeded_trial(0, by_task(theirs), origin=Origin.ZOO)
        candidate = seeded_trial(1, by_task(mine))
        protocol = seeded_protocol("mqar", "text", seeds=FOUR)
        return combined(candidate, marks([baseline, candidate], protocol, rung=0))

    places = [*order, *(4 + place for place in order)]
    permuted = [mine[place] for place in places], [theirs[place] for place in places]
    assert found(*permuted) == pytest.approx(found(mine, theirs), abs=1e-9)  # sums in another order


def test_intervals_cover_the_truth(seeded_trial: SeededTrial, seeded_protocol: SeededProtocol) -> None:
    """Of a candidate as good as the baseline and of one that is two units better, on two tasks of two seeds."""
    rng = np.random.default_rng(2)
    protocol = seeded_protocol("mqar", "text")
    truth = {0: 0.0, 1: float(np.mean([bounded(2 + x) for x in math.sqrt(2) * rng.standard_normal(40_000)]))}
    covered = {0: 0, 1: 0}
    for _ in range(300):
        x = 0.8 + 0.06 * rng.standard_normal((16, 2, 2))
        x[1] += 0.12
        scores = (np.sin(x) ** 2).tolist()
        trials = [
            seeded_trial(n, {"mqar": dict(enumerate(s[0])), "text": dict(enumerate(s[1]))}, origin=origin)
            for n, (s, origin) in enumerate(zip(scores, [Origin.EVOLUTION] * 15 + [Origin.ZOO], strict=True))
        ]
        measured_from = marks(trials, protocol, rung=0)
        for n in truth:
            found = score(trials[n], measured_from)
            covered[n] += found.low <= truth[n] <= found.high
    # 95% of 300 is 285, with a deviation of 3.8. The interval of what is not equal may be wider than it need be.
    assert 271 <= covered[0] <= 298
    assert covered[1] >= 271


def test_without_replicates_nothing_is_certain(seeded_trial: SeededTrial, seeded_protocol: SeededProtocol) -> None:
    protocol = seeded_protocol("mqar", seeds=(0,))
    trials = [seeded_trial(0, {"mqar": {0: 0.5}}, origin=Origin.ZOO), seeded_trial(1, {"mqar": {0: 0.9}})]
    found = score(trials[1], marks(trials, protocol, rung=0))
    assert (found.low, found.high, found.effects[0].low, found.effects[0].high) == (-5, 5, -math.inf, math.inf)
    assert 0 < found.value < 5
    lost = score(seeded_trial(2, {}), marks(trials, protocol, rung=0))
    assert (lost.value, lost.effects[0].value, lost.effects[0].high) == (-5, -math.inf, -math.inf)


def test_standings_are_combined_scores_once_there_are_baselines(
    seeded_trial: SeededTrial, seeded_protocol: SeededProtocol
) -> None:
    protocol = seeded_protocol("mqar", "text", seeds=FOUR)
    searched = [seeded_trial(n, by_task([0.1 * n] * 8)) for n in range(1, 4)]
    broken = seeded_trial(4, {"mqar": {0: 0.9, 1: math.nan}, "text": {2: FailureKind.DIVERGED}})
    elsewhere = seeded_trial(5, by_task([0.9] * 8), rung=1)
    means = standings([*searched, broken, elsewhere], protocol, rung=0)
    expected = {trial.candidate.id: pytest.approx(trial.score(0)) for trial in searched}
    assert means == {**expected, broken.candidate.id: pytest.approx(0.9 / 8)}
    baseline = seeded_trial(6, by_task([0.25] * 8), origin=Origin.ZOO)
    trials = [*searched, broken, baseline]
    found = standings(trials, protocol, rung=0)
    known = marks(trials, protocol, rung=0)
    assert found == {trial.candidate.id: combined(trial, known) for trial in trials}
    assert found[searched[1].candidate.id] < found[baseline.candidate.id] == 0 < found[searched[2].candidate.id]


def test_errors_say_what_was_asked(seeded_protocol: SeededProtocol, seeded_trial: SeededTrial) -> None:
    with pytest.raises(ValueError, match="rungs 0 to 0, and 1 was asked for"):
        marks([], seeded_protocol("mqar"), rung=1)
    with pytest.raises(ValueError, match="no task has a baseline"):
        combined(seeded_trial(0, {}), ())
