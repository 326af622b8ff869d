"""Is one arm better than its control? A statement with an interval, made so that it cannot flatter.

The measure is the probability that a random candidate of the arm beats a random one of the control, ties counting half:
the Mann-Whitney U statistic over n·m, also known as the common-language effect size (McGraw and Wong, 1992) or A12
(Vargha and Delaney, 2000, equation 1). It asks nothing of the distribution of scores, which here has a lump at chance,
a lump near one and another of failures.

What the interval does not say. It treats candidates as independent draws from their arm: evolution breeds from its own
past, so its interval is too narrow, and a second campaign with another seed is the honest replicate. It holds for one
comparison: with many arms, correct for their number. It speaks of the typical candidate and not of the best one, for
which `best_of_n` is given without an interval, because a bootstrap of a maximum is not valid. And scores are taken as
measured: the noise of training seeds is inside them, not apart.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from archloom.db.records import GATES, FailureKind, Origin, Trial

WORST_SCORE = 0.0
"""Scores are in [0, 1]: a failure ties with a candidate at chance."""

CONFIDENCE = 0.95

Verdict = Literal["better", "worse", "undecided"]
Counts = NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True)
class ArmSummary:
    """One arm: `n` candidates judged, `failed` of them with the worst score. Best and mean are NaN for n = 0.

    `best_of_n` is the expected best of `Comparison.equal_n` candidates drawn from the arm without replacement.
    """

    origin: Origin
    n: int
    failed: int
    best: float
    mean: float
    best_of_n: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """`probability` that the arm beats the control, with its 95% interval [`low`, `high`]; NaN if an arm is empty.

    `equal_n` is the size of the smaller arm: an arm that tried more often finds a better best by luck alone.
    """

    arm: ArmSummary
    control: ArmSummary
    rung: int
    equal_n: int
    probability: float
    low: float
    high: float
    verdict: Verdict


def compare_arms(
    trials: Sequence[Trial], *, arm: Origin, control: Origin, rung: int = 0, seed: int = 0, resamples: int = 2000
) -> Comparison:
    """Compare the candidates of two arms by their score at `rung`; `seed` is the bootstrap's.

    Judged are candidates that have a score at the rung or failed at it (for rung 0, also at the gates). A failed one
    has the worst score, whatever its other tasks gave, and so has one with a score that is no number. Candidates still
    waiting, and those that lost their worker, which says nothing of them, are not judged. The verdict is "better" or
    "worse" when the interval excludes one half and the arms are large enough for that to mean something.
    """
    of_arm, of_control = (_judge(trials, origin=origin, rung=rung) for origin in (arm, control))
    equal_n = min(len(of_arm), len(of_control))
    probability = low = high = math.nan
    if equal_n:
        scores = _with_worst(of_arm), _with_worst(of_control)
        probability = superiority(*scores)
        low, high = _interval(*scores, seed=seed, resamples=resamples)
    return Comparison(
        arm=_summary(arm, of_arm, equal_n),
        control=_summary(control, of_control, equal_n),
        rung=rung,
        equal_n=equal_n,
        probability=probability,
        low=low,
        high=high,
        verdict=_verdict(low, high, len(of_arm), len(of_control)),
    )


def superiority(arm: Sequence[float], control: Sequence[float]) -> float:
    """P(a > c) + P(a = c) / 2 for a drawn from `arm` and c from `control`; neither may be empty or hold NaN."""
    levels = np.unique(np.concatenate([arm, control]))
    counts = [np.bincount(np.searchsorted(levels, scores), minlength=len(levels)) for scores in (arm, control)]
    return _superiority(counts[0], counts[1])


def expected_best(scores: Sequence[float], n: int) -> float:
    """Expected maximum of `n` of the scores drawn without replacement: the mean over all n-subsets. NaN for n = 0.

    The i-th smallest (from 1) is the maximum of C(i-1, n-1) of the C(len, n) subsets.
    """
    if not 0 < n <= len(scores):
        return math.nan
    subsets = math.comb(len(scores), n)
    return sum(s * (math.comb(i, n - 1) / subsets) for i, s in enumerate(sorted(scores)) if i >= n - 1)


def _judge(trials: Sequence[Trial], *, origin: Origin, rung: int) -> list[float | None]:
    """One entry per candidate judged: its score, None if it failed."""
    judged: list[float | None] = []
    for trial in trials:
        at_rung = [r for r in trial.results if r.key.rung == rung or (rung == 0 and r.key.task == GATES)]
        failed = {r.failure.kind for r in at_rung if r.failure}
        score = trial.score(rung)
        if trial.candidate.origin is not origin or failed == {FailureKind.WORKER_LOST}:
            continue
        if failed or any(r.score is not None and not math.isfinite(r.score) for r in at_rung):
            judged.append(None)
        elif not math.isnan(score):
            judged.append(score)
    return judged


def _summary(origin: Origin, judged: Sequence[float | None], equal_n: int) -> ArmSummary:
    scores = _with_worst(judged)
    return ArmSummary(
        origin=origin,
        n=len(scores),
        failed=judged.count(None),
        best=max(scores, default=math.nan),
        mean=sum(scores) / len(scores) if scores else math.nan,
        best_of_n=expected_best(scores, equal_n),
    )


def _with_worst(judged: Sequence[float | None]) -> list[float]:
    return [WORST_SCORE if score is None else score for score in judged]


def _verdict(low: float, high: float, n_arm: int, n_control: int) -> Verdict:
    # The bootstrap of a handful of candidates that happen not to overlap has an interval of no width. A verdict is
    # given only if complete separation could reach the confidence in the exact two-sided rank test: four against four.
    if not n_arm or not n_control or 2 / math.comb(n_arm + n_control, n_arm) > 1 - CONFIDENCE:
        return "undecided"
    return "better" if low > 0.5 else "worse" if high < 0.5 else "undecided"


def _interval(arm: Sequence[float], control: Sequence[float], *, seed: int, resamples: int) -> tuple[float, float]:
    """Percentile bootstrap of `superiority`: both arms resampled, each with replacement at its own size."""
    rng = np.random.default_rng(seed)
    levels = np.unique(np.concatenate([arm, control]))
    places = [np.searchsorted(levels, scores) for scores in (arm, control)]
    drawn = np.empty(resamples)
    for resample in range(resamples):
        counts = [np.bincount(rng.choice(place, len(place)), minlength=len(levels)) for place in places]
        drawn[resample] = _superiority(counts[0], counts[1])
    low, high = np.quantile(drawn, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return float(low), float(high)


def _superiority(arm: Counts, control: Counts) -> float:
    """From the number of candidates at each level of score, levels ascending."""
    beaten = np.cumsum(control) - control / 2
    return float(arm @ beaten / (arm.sum() * control.sum()))
