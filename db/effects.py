"""What a score means: how far a candidate lies above the baselines, in units of the noise of training seeds.

The effect. A candidate minus its opponent on the same seed (the same data), on the scale of `archloom.db.noise`, over
the noise of the task. A failed seed is minus infinity, and plus infinity if it was the opponent's.

The combined score. Each seed's effect x is bounded, 5x / (5 + |x|), averaged over seeds, and then over tasks with equal
weights. Near 0 it counts noise units; five of them count half of all that can be had; it never ties, as a cut would; a
failed, missing or NaN seed has the lower bound itself, below any number. So a task cannot be bought: what is lost by
failing one of two tasks no gain on the other makes good.

Intervals take the noise for normal and equal for all candidates of a task. Where it is not (a mixer that learns on some
seeds and not on others), they are too narrow for that candidate: `archloom.db.claims` does not rely on them.
"""

import math
from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass, replace

from archloom.db.noise import Noise, noise_floor, seed_scores
from archloom.db.records import Origin, Protocol, Trial
from archloom.db.statistics import CONFIDENCE, WORST_SCORE

BOUND = 5.0
"""The combined score lies within [-BOUND, BOUND]. With 5, the bounded effect of a candidate on its equal has variance 1
(0.998 if the noise is normal), and less on any other opponent: `NULL_VARIANCE`."""

NULL_VARIANCE = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Mark:
    """What effects on a task are measured from: its best baseline, with its stabilised `scores` on the `seeds` that are
    compared, and its noise."""

    baseline: Trial
    noise: Noise
    seeds: tuple[int, ...]
    scores: tuple[float, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Effect:
    """A candidate on one task: `value` in units of seed noise, with its 95% interval.

    The interval is infinite where the noise has no degrees of freedom, and `value` is -inf if a seed failed. `bounded`,
    in [-BOUND, BOUND], is the task's share in the combined score.
    """

    task: str
    opponent: str
    value: float
    low: float
    high: float
    bounded: float
    seeds: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Score:
    """The combined score of a candidate, in [-BOUND, BOUND], with its 95% interval and the effects it is made of."""

    value: float
    low: float
    high: float
    effects: tuple[Effect, ...]


def bounded(effect: float) -> float:
    """BOUND · x / (BOUND + |x|): increasing, odd, of slope 1 at 0, and ±BOUND at ±inf."""
    return math.copysign(BOUND, effect) if math.isinf(effect) else BOUND * effect / (BOUND + abs(effect))


def marks(trials: Sequence[Trial], protocol: Protocol, *, rung: int) -> tuple[Mark, ...]:
    """One for each task of the rung, in the protocol's order; none at all while a task has no baseline to measure from.

    A baseline is a candidate of the zoo with a score on every seed of the task; the best is that of the highest mean
    on the stabilised scale, the earlier one of equals. Each task has its own: 0 is the best that is known for it.
    """
    found = []
    for task, seeds in stages(protocol, rung=rung).items():
        complete = {}
        for trial in trials:
            if trial.candidate.origin is Origin.ZOO:
                scores = seed_scores(trial, task=task, rung=rung)
                compared = tuple(scores.get(seed, -math.inf) for seed in seeds)
                if min(compared) > -math.inf:
                    complete[trial.candidate.index] = (sum(compared) / len(seeds), trial, compared)
        if not complete:
            return ()
        _, baseline, compared = max((complete[index] for index in sorted(complete)), key=lambda each: each[0])
        noise = noise_floor(trials, task=task, rung=rung)
        found.append(Mark(baseline=baseline, noise=noise, seeds=seeds, scores=compared))
    return tuple(found)


def stages(protocol: Protocol, *, rung: int) -> dict[str, tuple[int, ...]]:
    """The seeds of each task of a rung. Errors: `ValueError` for a rung that the protocol has not."""
    if not 0 <= rung < len(protocol.rungs):
        raise ValueError(f"the protocol has rungs 0 to {len(protocol.rungs) - 1}, and {rung} was asked for")
    seeds: dict[str, tuple[int, ...]] = {}
    for stage in protocol.rungs[rung].stages:
        seeds[stage.task] = tuple(dict.fromkeys((*seeds.get(stage.task, ()), *stage.seeds)))
    return seeds


def paired(candidate: Trial, opponent: Trial, *, noise: Noise, seeds: Sequence[int]) -> tuple[float, ...]:
    """The effect on each seed, in units of noise: ±inf where one of the two has no score, 0 where neither has."""
    theirs = seed_scores(opponent, task=noise.task, rung=noise.rung)
    return _paired(candidate, [theirs.get(seed, -math.inf) for seed in seeds], noise=noise, seeds=seeds)


def combined(candidate: Trial, measured_from: Sequence[Mark]) -> float:
    """The combined score, in [-BOUND, BOUND]: what candidates are ranked by. Errors: `ValueError` without a mark."""
    if not measured_from:
        raise ValueError("no task has a baseline to measure from: run a baseline on every task and seed of the rung")
    means = [_bounded_mean(_from(candidate, mark)) for mark in measured_from]
    return sum(means) / len(means)


def score(candidate: Trial, measured_from: Sequence[Mark]) -> Score:
    """`combined` with 95% intervals: Student's t, its degrees of freedom over tasks by Satterthwaite (1946).

    The variance of a mean of n bounded effects is taken for `NULL_VARIANCE` / n, which it is for a candidate as good as
    the baseline; for others it is less, and their interval is wider than it need be.
    """
    from scipy import stats

    value = combined(candidate, measured_from)
    effects = tuple(_effect(candidate, mark) for mark in measured_from)
    parts = [
        (NULL_VARIANCE / len(mark.seeds), mark.noise.degrees)
        for mark in measured_from
        if mark.baseline.candidate.id != candidate.candidate.id
    ]
    half = 0.0
    if any(not degrees for _, degrees in parts):
        half = math.inf
    elif parts:
        variance = sum(part for part, _ in parts)
        degrees = variance**2 / sum(part**2 / degrees for part, degrees in parts)
        half = float(stats.t.ppf((1 + CONFIDENCE) / 2, degrees)) * math.sqrt(variance) / len(measured_from)
    return Score(value=value, low=max(-BOUND, value - half), high=min(BOUND, value + half), effects=effects)


def standings(trials: Sequence[Trial], protocol: Protocol, *, rung: int) -> dict[str, float]:
    """What the candidates with results at a rung are ranked by there, by their ids; more is better.

    The combined score if every task has a baseline to measure from, else the mean score, a failed or missing seed as
    `WORST_SCORE`. It is a function of the given trials alone, and candidates compare only within one answer.
    """
    known = marks(trials, protocol, rung=rung)
    expected = stages(protocol, rung=rung)
    if known:
        return _combined(trials, known)
    return {
        trial.candidate.id: _mean(trial, expected, rung=rung) for trial in _with_results(trials, expected, rung=rung)
    }


def placed(trials: Sequence[Trial], protocol: Protocol) -> tuple[Trial, ...]:
    """The same trials, each with its combined score on every rung where there are baselines to measure from."""
    found: dict[str, list[tuple[int, float]]] = {}
    for rung in range(len(protocol.rungs)):
        for candidate, value in _combined(trials, marks(trials, protocol, rung=rung)).items():
            found.setdefault(candidate, []).append((rung, value))
    return tuple(replace(trial, standings=tuple(found.get(trial.candidate.id, ()))) for trial in trials)


def _combined(trials: Sequence[Trial], known: Sequence[Mark]) -> dict[str, float]:
    """The combined scores of the candidates with results at the rung of the marks; none without a mark."""
    if not known:
        return {}
    tasks = {mark.noise.task for mark in known}
    having = _with_results(trials, tasks, rung=known[0].noise.rung)
    return {trial.candidate.id: combined(trial, known) for trial in having}


def _with_results(trials: Sequence[Trial], tasks: Container[str], *, rung: int) -> list[Trial]:
    return [t for t in trials if any(r.key.rung == rung and r.key.task in tasks for r in t.results)]


def _paired(candidate: Trial, theirs: Sequence[float], *, noise: Noise, seeds: Sequence[int]) -> tuple[float, ...]:
    mine = seed_scores(candidate, task=noise.task, rung=noise.rung)
    pairs = ((mine.get(seed, -math.inf), score) for seed, score in zip(seeds, theirs, strict=True))
    return tuple(0.0 if a == b else (a - b) / noise.sd for a, b in pairs)


def _from(candidate: Trial, mark: Mark) -> tuple[float, ...]:
    """The paired effects of a candidate on the baseline of a mark."""
    return _paired(candidate, mark.scores, noise=mark.noise, seeds=mark.seeds)


def _effect(candidate: Trial, mark: Mark) -> Effect:
    from scipy import stats

    effects = _from(candidate, mark)
    value, half = sum(effects) / len(effects), math.inf
    if mark.baseline.candidate.id == candidate.candidate.id:
        half = 0.0
    elif mark.noise.degrees:
        quantile = float(stats.t.ppf((1 + CONFIDENCE) / 2, mark.noise.degrees))
        half = quantile * math.sqrt(2 / len(effects))
    failed = math.isinf(value)
    return Effect(
        task=mark.noise.task,
        opponent=mark.baseline.candidate.id,
        value=value,
        low=value if failed else value - half,
        high=value if failed else value + half,
        bounded=_bounded_mean(effects),
        seeds=len(effects),
    )


def _bounded_mean(effects: Sequence[float]) -> float:
    return sum(map(bounded, effects)) / len(effects)


def _mean(trial: Trial, expected: Mapping[str, Sequence[int]], *, rung: int) -> float:
    """The mean score over the expected tasks and seeds."""
    known = {(r.key.task, r.key.seed): r.score for r in trial.results if r.key.rung == rung and r.score is not None}
    scores = [known.get((task, seed), WORST_SCORE) for task, seeds in expected.items() for seed in seeds]
    return sum(score if math.isfinite(score) else WORST_SCORE for score in scores) / len(scores)
