"""What people and pages ask of a history: pure functions over trials, no database and no drawing.

Scores are comparable within one campaign only, since a campaign has one protocol.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from archloom.db.records import Candidate, FailureKind, Trial
from archloom.errors import ConfigError, NotFoundError

TEXT = "text"
"""The task whose `loss` metric is the loss of a row, bits per byte."""

RECALL = "mqar"
"""The task whose score is the recall of a row: multi-query associative recall."""

OBJECTIVES = {
    "score": +1,
    "effect": +1,
    "recall": +1,
    "loss": -1,
    "parameters": -1,
    "flops": -1,
    "state_bytes": -1,
    "seconds": -1,
}
"""The fields of `Row` that can be an objective: +1 where more is better, -1 where less is."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """A candidate of the leaderboard; numbers are NaN where nothing was measured.

    `score` is the mean over the tasks and seeds of `rung`, `effect` the combined score there, in units of seed noise
    from the best baselines (`db.effects`). The others come from the highest rung that has them: `loss` of the real-text
    task, `recall`, `parameters`, `flops` and `state_bytes` as the evaluator counts them. `seconds` is all time spent on
    the candidate's evaluations.
    """

    rank: int
    candidate: Candidate
    rung: int
    score: float
    effect: float
    loss: float
    recall: float
    parameters: float
    flops: float
    state_bytes: float
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class FailureCount:
    """How many candidates failed in one way, and the reason of the first of them."""

    kind: FailureKind
    count: int
    reason: str
    candidate: Candidate


def leaderboard(trials: Sequence[Trial], *, rung: int | None = None, limit: int | None = None) -> tuple[Row, ...]:
    """Candidates with a score, best first: by rung, then fitness, then the earlier candidate. Failures are left out.

    Given a `rung`, the board is as it would stand had the campaign ended there: results of higher rungs, failures
    among them, are not looked at, and candidates that did not reach it are not listed.
    """
    if rung is not None:
        trials = [
            replace(trial, results=tuple(result for result in trial.results if result.key.rung <= rung))
            for trial in trials
            if rung not in trial.unfinished
        ]
    scored = [
        (trial, trial.score(trial.rung))
        for trial in trials
        if trial.failure is None and trial.rung >= 0 and rung in (None, trial.rung)
    ]
    ordered = sorted(
        ((trial, score) for trial, score in scored if not math.isnan(score)),
        key=lambda pair: (-pair[0].rung, -pair[0].fitness(pair[0].rung), pair[0].candidate.index),
    )
    return tuple(_row(trial, rank=rank, score=score) for rank, (trial, score) in enumerate(ordered[:limit], start=1))


def pareto(rows: Sequence[Row], objectives: Sequence[str]) -> tuple[Row, ...]:
    """The rows that no other row beats: none is as good in every objective and better in one. In the order given.

    Rows that lack an objective (NaN) cannot be compared and are left out; equals stay together. `ConfigError` for a
    name that is not in `OBJECTIVES`.
    """
    unknown = [name for name in objectives if name not in OBJECTIVES]
    if unknown or not objectives:
        given = ", ".join(map(repr, unknown)) or "none"
        raise ConfigError(f"objectives are one or more of {', '.join(OBJECTIVES)}; got {given}")
    costs = [tuple(-OBJECTIVES[name] * getattr(row, name) for name in objectives) for row in rows]
    comparable = [place for place, cost in enumerate(costs) if not any(map(math.isnan, cost))]
    front: list[int] = []
    # In lexicographic order a row can only be beaten by one before it, and then also by one already on the front.
    for place in sorted(comparable, key=lambda place: costs[place]):
        if not any(_beats(costs[other], costs[place]) for other in front):
            front.append(place)
    return tuple(rows[place] for place in sorted(front))


def failures(trials: Sequence[Trial]) -> tuple[FailureCount, ...]:
    """Failed candidates counted by the kind of their first failure, the most frequent first."""
    found: dict[FailureKind, FailureCount] = {}
    for trial in trials:
        if trial.failure is None:
            continue
        kind = trial.failure.kind
        first = FailureCount(kind=kind, count=0, reason=trial.failure.reason, candidate=trial.candidate)
        so_far = found.get(kind, first)
        found[kind] = replace(so_far, count=so_far.count + 1)
    return tuple(sorted(found.values(), key=lambda failed: (-failed.count, failed.kind)))


def lineage(trials: Sequence[Trial], candidate_id: str) -> tuple[Candidate, ...]:
    """All ancestors of a candidate, oldest first, itself not included; those from outside the campaign are unknown.

    `NotFoundError` if no trial has that candidate.
    """
    known = {trial.candidate.id: trial.candidate for trial in trials}
    if candidate_id not in known:
        raise NotFoundError(f"no candidate {candidate_id[:8]} among the {len(known)} of this campaign")
    seen: set[str] = set()
    to_visit = list(known[candidate_id].parents)
    while to_visit:
        ancestor = to_visit.pop()
        if ancestor in known and ancestor not in seen:
            seen.add(ancestor)
            to_visit.extend(known[ancestor].parents)
    return tuple(sorted((known[ancestor] for ancestor in seen), key=lambda candidate: candidate.index))


def _row(trial: Trial, *, rank: int, score: float) -> Row:
    return Row(
        rank=rank,
        candidate=trial.candidate,
        rung=trial.rung,
        score=score,
        effect=dict(trial.standings).get(trial.rung, math.nan),
        loss=trial.metric("loss", task=TEXT),
        recall=_recall(trial),
        parameters=trial.metric("parameters"),
        flops=trial.metric("flops"),
        state_bytes=trial.metric("state_bytes"),
        seconds=sum(result.seconds for result in trial.results),
    )


def _recall(trial: Trial) -> float:
    having = [(result.key.rung, result.score) for result in trial.results if result.key.task == RECALL]
    scores = [(rung, score) for rung, score in having if score is not None]
    top = max((rung for rung, _ in scores), default=None)
    of_top = [score for rung, score in scores if rung == top]
    return sum(of_top) / len(of_top) if of_top else math.nan


def _beats(first: Sequence[float], second: Sequence[float]) -> bool:
    """Whether `first` costs no more in everything and less in something."""
    return all(a <= b for a, b in zip(first, second, strict=True)) and tuple(first) != tuple(second)
