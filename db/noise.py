"""The noise of training seeds on a task, on a scale where it is nearly the same at every level of score.

The scale. Seed noise shrinks where scores near 0 or 1, so a pooled deviation of raw scores is too small in the middle,
where claims are made. Scores are compared as asin(sqrt(score)), on which counts have one variance (Anscombe, 1948). It
was chosen by simulation: eight levels from .02 to .995, each score counted over 512 sequences. The deviation of the
noisiest level over that of the quietest, where seeds add nothing to the noise of counting / spread the rate (beta, of
variance .01 p(1-p)) / shift its logit by .4 / shift the score itself by .04:

    raw scores          7.1     7.3    25.0     1.8
    asin(sqrt(score))   1.2     1.1     3.3     2.4
    logit, cut at .005  3.9     3.4     1.6     6.1
    logit, cut at .02   175     3.8      35     3.1

What one number cannot say. Mixers differ in noise beyond what a scale can mend. Of four zoo systems on associative
recall (two layers of width 32, 300 steps, seeds 0 to 3) gated DeltaNet scored .88, .96, .01 and .07, a deviation of .65
radians, while Based stayed between .03 and .05, one of .02. A pooled deviation is a unit of measure, not a test.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from archloom.db.records import FailureKind, Trial

FLOOR = 0.01
"""Least noise, in radians: one point of a hundred in the middle of the scale. Seeds that agree to the last digit, at
chance say, would make any difference infinitely many times the noise; what is smaller than this is not worth having."""

SATURATED = 0.02
"""A candidate whose seeds are all this near to 0, or all this near to 1, says nothing of the noise: the dead mixers of
a population would shrink it until every accident is a discovery."""

ROUNDING = 1e-6


@dataclass(frozen=True, slots=True, kw_only=True)
class Noise:
    """Seed noise of a task at a rung, in radians: `sd` is that of one result, pooled over `candidates` with two or more
    seeds, on `degrees` degrees of freedom. It is `FLOOR` where less, or nothing (0 degrees), was measured."""

    task: str
    rung: int
    sd: float
    degrees: int
    candidates: int


def stabilise(score: float) -> float:
    """asin(sqrt(score)), in radians within [0, pi/2]; -inf for a score that is no finite number.

    Errors: `ValueError` for a finite score outside [0, 1] by more than rounding.
    """
    if not math.isfinite(score):
        return -math.inf
    if not -ROUNDING <= score <= 1 + ROUNDING:
        raise ValueError(f"a score lies in [0, 1], got {score}; scale it in the task's runner")
    return math.asin(math.sqrt(min(1.0, max(0.0, score))))


def seed_scores(trial: Trial, *, task: str, rung: int) -> dict[int, float]:
    """By seed, the stabilised score of a task at a rung: -inf where it failed. A lost worker left no result."""
    return {
        result.key.seed: -math.inf if result.score is None else stabilise(result.score)
        for result in trial.results
        if result.key.task == task
        and result.key.rung == rung
        and not (result.failure and result.failure.kind is FailureKind.WORKER_LOST)
    }


def replicates(trials: Sequence[Trial], *, task: str, rung: int) -> list[list[float]]:
    """The stabilised scores of each candidate that tells of seed noise: two or more seeds, and not `SATURATED`."""
    low, high = stabilise(SATURATED), stabilise(1 - SATURATED)
    finite = ([s for s in seed_scores(t, task=task, rung=rung).values() if s > -math.inf] for t in trials)
    return [each for each in finite if len(each) > 1 and max(each) > low and min(each) < high]


def noise_floor(trials: Sequence[Trial], *, task: str, rung: int) -> Noise:
    """The pooled deviation within candidates: sqrt(sum of squares about each one's mean / sum of (seeds - 1))."""
    groups = replicates(trials, task=task, rung=rung)
    degrees = sum(len(group) - 1 for group in groups)
    squares = sum(sum_of_squares(group) for group in groups)
    sd = max(FLOOR, math.sqrt(squares / degrees)) if degrees else FLOOR
    return Noise(task=task, rung=rung, sd=sd, degrees=degrees, candidates=len(groups))


def sum_of_squares(values: Sequence[float]) -> float:
    """Sum of the squared distances from the mean."""
    mean = sum(values) / len(values)
    return sum((value - mean) ** 2 for value in values)
