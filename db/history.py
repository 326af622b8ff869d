"""What a campaign has found so far, read back as records."""

from collections import defaultdict

from sqlalchemy import RowMapping, select
from sqlalchemy.orm import Session

from archloom.db.campaigns import find_campaign, find_campaign_id, find_protocol
from archloom.db.candidates import list_candidates
from archloom.db.effects import placed
from archloom.db.evaluations import FINISHED, is_evaluation, not_planned
from archloom.db.records import (
    EvaluationKey,
    Failure,
    FailureKind,
    Measurement,
    Result,
    Series,
    Trial,
)
from archloom.db.tables import EvaluationRow, SeriesRow
from archloom.errors import NotFoundError

RESULT = (
    EvaluationRow.candidate,
    EvaluationRow.task,
    EvaluationRow.rung,
    EvaluationRow.seed,
    EvaluationRow.score,
    EvaluationRow.metrics,
    EvaluationRow.seconds,
    EvaluationRow.fingerprint,
    EvaluationRow.failure_kind,
    EvaluationRow.failure_reason,
    EvaluationRow.failure_traceback,
)


def history(session: Session, campaign: str) -> tuple[Trial, ...]:
    """Results stand in the order in which they were planned, whatever the order in which workers ended."""
    protocol = find_protocol(session, find_campaign(session, campaign).protocol)
    campaign_id = find_campaign_id(session, campaign)
    finished = (
        select(*RESULT)
        .where(EvaluationRow.campaign_id == campaign_id, EvaluationRow.state.in_(FINISHED))
        .order_by(EvaluationRow.id)
    )
    results: dict[str, list[Result]] = defaultdict(list)
    for row in session.execute(finished).mappings():
        results[row["candidate"]].append(_result(row))
    waiting = (
        select(EvaluationRow.candidate, EvaluationRow.rung)
        .where(EvaluationRow.campaign_id == campaign_id, EvaluationRow.state.not_in(FINISHED))
        .distinct()
    )
    unfinished: dict[str, set[int]] = defaultdict(set)
    for candidate_id, rung in session.execute(waiting):
        unfinished[candidate_id].add(rung)
    trials = [
        Trial(
            candidate=candidate,
            results=tuple(results[candidate.id]),
            unfinished=frozenset(unfinished[candidate.id]),
        )
        for candidate in list_candidates(session, campaign)
    ]
    return placed(trials, protocol)


def measurement(session: Session, campaign: str, key: EvaluationKey) -> Measurement:
    campaign_id = find_campaign_id(session, campaign)
    row = (
        session.execute(
            select(EvaluationRow.id, EvaluationRow.environment, EvaluationRow.state, *RESULT).where(
                is_evaluation(campaign_id, key)
            )
        )
        .mappings()
        .first()
    )
    if row is None:
        raise not_planned(campaign, key)
    if row["state"] not in FINISHED:
        raise NotFoundError(f"the evaluation of {key.candidate[:8]} on {key.task!r} has not finished yet")
    result = _result(row)
    ordered = select(SeriesRow.name, SeriesRow.points).where(SeriesRow.evaluation_id == row["id"])
    series = (
        Series(name=name, steps=tuple(step for step, _ in points), values=tuple(value for _, value in points))
        for name, points in session.execute(ordered.order_by(SeriesRow.position))
    )
    return Measurement(
        key=key,
        score=result.score,
        metrics=result.metrics,
        series=tuple(series),
        environment=row["environment"],
        seconds=result.seconds,
        failure=result.failure,
        fingerprint=result.fingerprint,
    )


def steps(session: Session, campaign: str, key: EvaluationKey) -> int:
    campaign_id = find_campaign_id(session, campaign)
    planned = session.scalar(select(EvaluationRow.steps).where(is_evaluation(campaign_id, key)))
    if planned is None:
        raise not_planned(campaign, key)
    return planned


def _result(row: RowMapping) -> Result:
    failure = None
    if row["failure_kind"] is not None:
        kind = FailureKind(row["failure_kind"])
        failure = Failure(kind=kind, reason=row["failure_reason"], traceback=row["failure_traceback"])
    key = EvaluationKey(candidate=row["candidate"], task=row["task"], rung=row["rung"], seed=row["seed"])
    return Result(
        key=key,
        score=row["score"],
        metrics=row["metrics"],
        failure=failure,
        seconds=row["seconds"],
        fingerprint=row["fingerprint"],
    )
