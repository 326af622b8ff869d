"""How far a campaign has come, in one record."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from archloom.db.queries import leaderboard
from archloom.db.records import Campaign, CampaignState, Candidate, Origin, Trial


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """`candidates` counts new ones, of which `failed` failed; the best ones are None, their scores NaN, before any."""

    campaign: str
    state: CampaignState
    created: datetime
    wall_seconds: float
    protocol: str
    baselines: int
    candidates: int
    failed: int
    evaluations: int
    best: Candidate | None
    best_score: float
    best_baseline: Candidate | None
    best_baseline_score: float


def summarise(campaign: Campaign, trials: Sequence[Trial]) -> Summary:
    """Best is by rung and then score, as on the leaderboard."""
    rows = leaderboard(trials)
    new = [trial for trial in trials if trial.candidate.origin is not Origin.ZOO]
    best = next((row for row in rows if row.candidate.origin is not Origin.ZOO), None)
    baseline = next((row for row in rows if row.candidate.origin is Origin.ZOO), None)
    return Summary(
        campaign=campaign.name,
        state=campaign.state,
        created=campaign.created,
        wall_seconds=campaign.wall_seconds,
        protocol=campaign.protocol,
        baselines=len(trials) - len(new),
        candidates=len(new),
        failed=sum(trial.failure is not None for trial in new),
        evaluations=sum(len(trial.results) for trial in trials),
        best=best.candidate if best else None,
        best_score=best.score if best else math.nan,
        best_baseline=baseline.candidate if baseline else None,
        best_baseline_score=baseline.score if baseline else math.nan,
    )
