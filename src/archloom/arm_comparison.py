"""Is one arm of the search better than another at equal cost? The arithmetic of `archloom bench arms`.

Each arm searches alone, in a campaign of its own for every replicate; a replicate is one seed, which all arms share. A
run is then a path: what was spent, and the best fitness so far, after every candidate. Paths are compared where they
have spent the same: the largest amount that every arm of the replicate has spent.

All fitness is on one scale: the combined score of the last rung, from the best baselines in units of a noise that is
pooled over all the runs together (`archloom.db.effects`). The baselines cost every arm the same and are not counted as
spent. A candidate that another arm wrote, since the one that was asked failed, is paid for and is worth nothing.

What the intervals do not say. They are Student's t over replicates, the only independent draws here, so with three they
are wide, and narrow by luck where all replicates end at the same score. They hold for one comparison, not for the best
of several.
"""

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from archloom.db.effects import BOUND, combined, marks
from archloom.db.records import BILLION, LanguageModelCall, Origin, Protocol, Trial
from archloom.db.statistics import CONFIDENCE, superiority
from archloom.errors import ConfigError

Cost = Literal["candidates", "evaluations", "money"]
COSTS: tuple[Cost, ...] = ("candidates", "evaluations", "money")
"""What can be held equal."""

HOUR = 3600


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """What a run had spent when a candidate was done, and its `best` fitness so far, in [-BOUND, BOUND].

    `evaluations` counts those of the gates as well; `money` is in the currency of the prices.
    """

    candidates: int
    evaluations: int
    money: float
    best: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """One arm's search in one replicate.

    `failed` counts candidates with a failure, `fallbacks` those that another arm wrote in its place and `refusals` the
    proposals that came to nothing. `money` is device time at its price plus what the calls cost.
    """

    arm: str
    seed: int
    path: tuple[Point, ...]
    failed: int
    fallbacks: int
    refusals: int
    device_seconds: float
    calls: int
    tokens: int
    money: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Interval:
    """A mean over replicates with its 95% interval; infinite for a single replicate."""

    mean: float
    low: float
    high: float


@dataclass(frozen=True, slots=True, kw_only=True)
class ArmSummary:
    """An arm over its replicates: sums, and its `best` fitness at every kind of equal cost."""

    arm: str
    replicates: int
    candidates: int
    evaluations: int
    failed: int
    fallbacks: int
    refusals: int
    device_seconds: float
    calls: int
    tokens: int
    money: float
    best: Mapping[Cost, Interval]


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """How much better an arm ends than a control where `equal` is the same: paired by replicate.

    `better` is the probability that a replicate of the arm ends better than one of the control, ties counting half.
    """

    arm: str
    control: str
    equal: Cost
    by: Interval
    better: float


def yardstick(
    histories: Sequence[Sequence[Trial]], protocol: Protocol, *, names: Sequence[str]
) -> list[Mapping[str, float]]:
    """For each campaign the fitness of its candidates by id, all on one scale; `names` are the campaigns'.

    Errors: `ConfigError` if no baseline has a score on every task and seed of the last rung.
    """
    rung = len(protocol.rungs) - 1
    once = {trial.candidate.id: trial for history in reversed(histories) for trial in history}
    known = marks(tuple(once.values()), protocol, rung=rung)
    if not known:
        raise ConfigError(
            f"no baseline of {', '.join(names)} has a score on every task of rung {rung}, so there is nothing to "
            "measure fitness from; name baselines that train there (search.baselines)"
        )
    return [{trial.candidate.id: combined(trial, known) for trial in history} for history in histories]


def walked(
    history: Sequence[Trial],
    *,
    arm: str,
    seed: int,
    fitness: Mapping[str, float],
    calls: Mapping[int, Sequence[LanguageModelCall]],
    refusals: int,
    device_price: float,
) -> Run:
    """The run of a finished campaign. `calls` are those made for each candidate, by its index; prices are per hour."""
    path: list[Point] = []
    evaluations, seconds, cost, best = 0, 0.0, 0, -BOUND
    tried = [trial for trial in history if trial.candidate.origin is not Origin.ZOO]
    for number, trial in enumerate(tried, start=1):
        evaluations += len(trial.results)
        seconds += sum(result.seconds for result in trial.results)
        cost += sum(call.cost for call in calls.get(trial.candidate.index, ()))
        if trial.candidate.origin == arm:
            best = max(best, fitness[trial.candidate.id])
        money = seconds * device_price / HOUR + cost / BILLION
        path.append(Point(candidates=number, evaluations=evaluations, money=money, best=best))
    made = [call for each in calls.values() for call in each]
    return Run(
        arm=arm,
        seed=seed,
        path=tuple(path),
        failed=sum(trial.failure is not None for trial in tried),
        fallbacks=sum(trial.candidate.origin != arm for trial in tried),
        refusals=refusals,
        device_seconds=seconds,
        calls=len(made),
        tokens=sum(call.prompt_tokens + call.completion_tokens for call in made),
        money=path[-1].money if path else 0.0,
    )


def best_within(run: Run, cost: Cost, limit: float) -> float:
    """The best fitness that a run had when it had spent at most `limit`; -BOUND if that paid for no candidate."""
    return max((point.best for point in run.path if getattr(point, cost) <= limit), default=-BOUND)


def limits(runs: Sequence[Run], cost: Cost) -> dict[int, float]:
    """By replicate, the largest amount that every arm has spent."""
    found: dict[int, float] = {}
    for run in runs:
        spent = getattr(run.path[-1], cost) if run.path else 0.0
        found[run.seed] = min(spent, found.get(run.seed, math.inf))
    return found


def bests(runs: Sequence[Run], cost: Cost) -> dict[str, tuple[float, ...]]:
    """By arm, the best fitness of every replicate, in the order of seeds, where all arms have spent the same."""
    equal = limits(runs, cost)
    ordered = sorted(runs, key=lambda run: run.seed)
    return {
        arm: tuple(best_within(run, cost, equal[run.seed]) for run in ordered if run.arm == arm)
        for arm in dict.fromkeys(run.arm for run in runs)
    }


def differences(runs: Sequence[Run], *, arm: str, controls: Sequence[str]) -> tuple[Difference, ...]:
    """The arm against each control at every kind of equal cost; each has a run in every replicate."""
    found = []
    for cost in COSTS:
        by_arm = bests(runs, cost)
        for control in controls:
            mine, theirs = by_arm[arm], by_arm[control]
            by = interval([a - b for a, b in zip(mine, theirs, strict=True)])
            found.append(Difference(arm=arm, control=control, equal=cost, by=by, better=superiority(mine, theirs)))
    return tuple(found)


def interval(values: Sequence[float]) -> Interval:
    """Student's t over independent values."""
    from scipy import stats

    mean = statistics.fmean(values)
    if len(values) < 2:
        return Interval(mean=mean, low=-math.inf, high=math.inf)
    quantile = float(stats.t.ppf((1 + CONFIDENCE) / 2, len(values) - 1))
    half = quantile * statistics.stdev(values) / math.sqrt(len(values))
    return Interval(mean=mean, low=mean - half, high=mean + half)


def summaries(runs: Sequence[Run]) -> tuple[ArmSummary, ...]:
    """One for every arm, in the order of the runs; intervals are cut to the range of fitness."""
    by_cost = {cost: bests(runs, cost) for cost in COSTS}
    found = []
    for arm in dict.fromkeys(run.arm for run in runs):
        mine = [run for run in runs if run.arm == arm]
        found.append(
            ArmSummary(
                arm=arm,
                replicates=len(mine),
                candidates=sum(len(run.path) for run in mine),
                evaluations=sum(run.path[-1].evaluations for run in mine if run.path),
                failed=sum(run.failed for run in mine),
                fallbacks=sum(run.fallbacks for run in mine),
                refusals=sum(run.refusals for run in mine),
                device_seconds=sum(run.device_seconds for run in mine),
                calls=sum(run.calls for run in mine),
                tokens=sum(run.tokens for run in mine),
                money=sum(run.money for run in mine),
                best={cost: _in_range(interval(by_cost[cost][arm])) for cost in COSTS},
            )
        )
    return tuple(found)


def _in_range(found: Interval) -> Interval:
    return replace(found, low=max(-BOUND, found.low), high=min(BOUND, found.high))
