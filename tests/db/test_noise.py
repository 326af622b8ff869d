"""The noise of seeds: against hand-made replicates, and against noise that was put in."""

import math
import statistics
from collections.abc import Callable

import numpy as np
import pytest

from archloom.db.noise import FLOOR, noise_floor, replicates, seed_scores, stabilise
from archloom.db.records import FailureKind, Trial

SeededTrial = Callable[..., Trial]


def test_the_scale_at_points_known_by_hand() -> None:
    assert stabilise(0) == 0
    assert stabilise(0.5) == pytest.approx(math.pi / 4, abs=1e-15)
    assert stabilise(0.75) == pytest.approx(math.pi / 3, abs=1e-15)
    assert stabilise(1) == stabilise(1 + 1e-12) == math.pi / 2
    assert stabilise(math.nan) == stabilise(math.inf) == -math.inf


@pytest.mark.parametrize("score", [-0.1, 1.1])
def test_a_score_outside_its_range_is_refused(score: float) -> None:
    with pytest.raises(ValueError, match=rf"in \[0, 1\], got {score}"):
        stabilise(score)


def test_counts_are_as_noisy_at_every_level_on_the_scale_and_not_on_scores() -> None:
    rng = np.random.default_rng(0)
    counts = [rng.binomial(512, level, 4000) / 512 for level in (0.05, 0.2, 0.5, 0.8, 0.95)]
    raw = [scores.std() for scores in counts]
    scaled = [np.arcsin(np.sqrt(scores)).std() for scores in counts]
    assert max(raw) / min(raw) > 2
    # The deviation of 4,000 draws is known to 1.1%: five levels of one deviation differ by 3% or so.
    assert max(scaled) / min(scaled) < 1.08
    assert np.mean(scaled) == pytest.approx(1 / (2 * math.sqrt(512)), rel=0.02)


def test_the_pooled_deviation_is_that_of_the_textbook(seeded_trial: SeededTrial) -> None:
    groups = [(0.2, 0.4, 0.3), (0.6, 0.7), (0.9, 0.5, 0.8, 0.7)]
    trials = [seeded_trial(n, {"mqar": dict(enumerate(group))}) for n, group in enumerate(groups)]
    scaled = [[math.asin(math.sqrt(score)) for score in group] for group in groups]
    variance = sum(statistics.variance(group) * (len(group) - 1) for group in scaled) / 6
    noise = noise_floor(trials, task="mqar", rung=0)
    assert noise.sd == pytest.approx(math.sqrt(variance), rel=1e-12)
    assert (noise.degrees, noise.candidates) == (6, 3)


def test_the_deviation_that_was_put_in_is_found(seeded_trial: SeededTrial) -> None:
    rng = np.random.default_rng(1)
    levels = rng.uniform(0.5, 1.1, 300)
    scores = np.sin(levels[:, None] + 0.08 * rng.standard_normal((300, 3))) ** 2
    trials = [seeded_trial(n, {"mqar": dict(enumerate(each.tolist()))}) for n, each in enumerate(scores)]
    # 600 degrees of freedom: the deviation is known to 2.9%.
    assert noise_floor(trials, task="mqar", rung=0).sd == pytest.approx(0.08, rel=0.09)


def test_what_says_nothing_of_the_noise_is_left_out(seeded_trial: SeededTrial) -> None:
    telling = seeded_trial(0, {"mqar": {0: 0.4, 1: 0.5}})
    silent = [
        seeded_trial(1, {"mqar": {0: 0.1}}),
        seeded_trial(2, {"mqar": {0: 0.1, 1: FailureKind.DIVERGED}}),
        seeded_trial(3, {"mqar": {0: 0.1, 1: math.nan}}),
        seeded_trial(4, {"text": {0: 0.1, 1: 0.9}}),
        seeded_trial(5, {"mqar": {0: 0.1, 1: 0.9}}, rung=1),
        *(seeded_trial(n, {"mqar": {0: 0.0, 1: 0.019}}) for n in range(6, 60)),
        seeded_trial(60, {"mqar": {0: 1.0, 1: 0.981}}),
    ]
    assert replicates([telling, *silent], task="mqar", rung=0) == [[stabilise(0.4), stabilise(0.5)]]
    assert noise_floor([telling, *silent], task="mqar", rung=0) == noise_floor([telling], task="mqar", rung=0)
    # Chance on one seed and solved on the other is the largest noise there is, not none.
    torn = seeded_trial(61, {"mqar": {0: 0.0, 1: 1.0}})
    assert noise_floor([torn], task="mqar", rung=0).sd == pytest.approx(math.pi / 2 / math.sqrt(2))


def test_noise_is_never_less_than_the_evaluation_resolves(seeded_trial: SeededTrial) -> None:
    same = [seeded_trial(n, {"mqar": {0: 0.5, 1: 0.5, 2: 0.5}}) for n in range(4)]
    assert (noise_floor(same, task="mqar", rung=0).sd, noise_floor(same, task="mqar", rung=0).degrees) == (FLOOR, 8)
    assert (noise_floor([], task="mqar", rung=0).sd, noise_floor([], task="mqar", rung=0).degrees) == (FLOOR, 0)


def test_a_failure_is_a_result_and_a_lost_worker_none(seeded_trial: SeededTrial) -> None:
    outcomes = {0: 0.25, 1: FailureKind.DIVERGED, 2: math.nan, 3: FailureKind.WORKER_LOST}
    scores = seed_scores(seeded_trial(0, {"mqar": outcomes}), task="mqar", rung=0)
    assert scores == {0: pytest.approx(math.pi / 6), 1: -math.inf, 2: -math.inf}
