"""What a running campaign says of itself: its progress while it runs, its outcome when a session ends."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from archloom.db.records import CampaignState, Origin, Trial


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """A running campaign at a glance. Scores are of the highest rung; `overhead` is the workers' idle share so far."""

    campaign: str
    jobs_done: int
    candidates: int
    candidates_total: int
    running: int
    best: float
    best_name: str
    best_baseline: float
    baseline_name: str
    failures: int
    wall_seconds: float
    wall_limit: float | None
    eta_seconds: float
    overhead: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """How a session ended. `overhead` is the share of the workers' time, after start-up, in which they ran no trial;
    `gates` the share they spent on gates."""

    state: CampaignState
    candidates: int
    evaluations: int
    wall_seconds: float
    overhead: float
    gates: float
    message: str


def best(trials: Sequence[Trial], *, baselines: bool) -> tuple[float, str]:
    """The best score on the highest rung, and whose it is, among the baselines or the new; NaN and "" if none."""
    scored = [t for t in trials if t.rung >= 0 and (t.candidate.origin is Origin.ZOO) is baselines]
    top = max(scored, key=lambda t: (t.rung, t.score(t.rung)), default=None)
    return (math.nan, "") if top is None else (top.score(top.rung), top.candidate.name or top.candidate.short)


def jobs_expected(*, baselines: int, candidates: int, keeps: Sequence[float]) -> int:
    """How many jobs a campaign will have if nothing fails; `keeps` are the shares that rise from each rung."""
    total, rising = baselines * len(keeps), float(candidates)
    for keep in keeps:
        total += int(rising)
        rising *= keep
    return total
