"""The life of an evaluation as statements on a session: planned, claimed, renewed, finished or given back.

    pending ──claim──> leased ──finish──> done | failed      (for good: no statement here touches a finished row)
       └──abandon, expire──┘ └──claim──┘ once the lease has run out

Every change is one `UPDATE … WHERE state …` on the evaluation's own row, which decides alone who wins: the state, the
number of the live attempt and the end of its lease stand in that row, never only in a joined one. (PostgreSQL, having
waited for a row, looks again at that row and not at the others of the statement.) A lease that has run out but that
nobody else has taken still counts: the answer of a slow worker is as good as any.
"""

import hashlib
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

from sqlalchemy import ColumnElement, and_, exists, func, insert, or_, select, update
from sqlalchemy.orm import Session

from archloom.db.campaigns import find_campaign_id
from archloom.db.engine import insert_missing
from archloom.db.records import Attempt, EvaluationKey, EvaluationState, Measurement, TrialSpec
from archloom.db.tables import AttemptRow, CandidateRow, EvaluationRow, SeriesRow
from archloom.errors import NotFoundError

PLANNED_AT_ONCE = 500
"""Rows per INSERT. Databases bound the parameters of a statement: 32,766 on SQLite, 65,535 on PostgreSQL."""

PENDING, LEASED = EvaluationState.PENDING.value, EvaluationState.LEASED.value
FINISHED = (EvaluationState.DONE.value, EvaluationState.FAILED.value)
LOST = "lost"
"""The outcome of an attempt whose worker died: it counts against the attempts that an evaluation has."""


def plan(session: Session, campaign: str, specs: Sequence[TrialSpec]) -> None:
    campaign_id = find_campaign_id(session, campaign)
    for start in range(0, len(specs), PLANNED_AT_ONCE):
        some = specs[start : start + PLANNED_AT_ONCE]
        _require_candidates(session, campaign, campaign_id, {spec.key.candidate for spec in some})
        rows = [
            {
                "campaign_id": campaign_id,
                "candidate": spec.key.candidate,
                "task": spec.key.task,
                "rung": spec.key.rung,
                "seed": spec.key.seed,
                "steps": spec.steps,
                "state": PENDING,
                "attempts": 0,
            }
            for spec in some
        ]
        insert_missing(session, EvaluationRow, rows, unique=["campaign_id", "candidate", "task", "rung", "seed"])


def claim(session: Session, campaign: str, key: EvaluationKey, *, worker: str, lease_seconds: float) -> Attempt | None:
    campaign_id = find_campaign_id(session, campaign)
    now = datetime.now(UTC)
    expires = now + timedelta(seconds=lease_seconds)
    free = or_(EvaluationRow.state == PENDING, and_(EvaluationRow.state == LEASED, EvaluationRow.lease_expires < now))
    won = session.execute(
        update(EvaluationRow)
        .where(is_evaluation(campaign_id, key), free)
        .values(state=LEASED, attempts=EvaluationRow.attempts + 1, lease_expires=expires)
        .returning(EvaluationRow.id, EvaluationRow.attempts)
    ).first()
    if won is None:
        if session.scalar(select(EvaluationRow.id).where(is_evaluation(campaign_id, key))) is None:
            raise not_planned(campaign, key)
        return None
    if won.attempts > 1:
        _end_attempts(session, AttemptRow.evaluation_id == won.id, outcome="expired")
    attempt_id = session.execute(
        insert(AttemptRow)
        .values(
            evaluation_id=won.id,
            number=won.attempts,
            worker=worker,
            started=now,
            expires=expires,
            idempotency_key=idempotency_key(campaign, key, won.attempts),
        )
        .returning(AttemptRow.id)
    ).scalar_one()
    return Attempt(id=attempt_id, key=key, number=won.attempts, worker=worker, expires=expires)


def renew(session: Session, attempts: Sequence[Attempt], *, lease_seconds: float) -> None:
    """Attempts that have ended, or whose evaluation went to another one, are passed over."""
    expires = datetime.now(UTC) + timedelta(seconds=lease_seconds)
    held = and_(AttemptRow.id.in_([attempt.id for attempt in attempts]), AttemptRow.ended.is_(None))
    is_live = exists().where(
        held, AttemptRow.evaluation_id == EvaluationRow.id, AttemptRow.number == EvaluationRow.attempts
    )
    session.execute(update(EvaluationRow).where(EvaluationRow.state == LEASED, is_live).values(lease_expires=expires))
    session.execute(update(AttemptRow).where(held).values(expires=expires))


def finish(session: Session, campaign: str, attempt: Attempt, measurement: Measurement) -> bool:
    if measurement.key != attempt.key:
        raise ValueError(f"the measurement of {measurement.key} does not answer the attempt at {attempt.key}")
    campaign_id = find_campaign_id(session, campaign)
    failure = measurement.failure
    state = EvaluationState.FAILED if failure else EvaluationState.DONE
    finished = session.execute(
        update(EvaluationRow)
        .where(_is_held(campaign_id, attempt))
        .values(
            state=state.value,
            lease_expires=None,
            score=measurement.score,
            metrics=measurement.metrics,
            environment=dict(measurement.environment),
            seconds=measurement.seconds,
            fingerprint=measurement.fingerprint,
            failure_kind=failure and failure.kind.value,
            failure_reason=failure and failure.reason,
            failure_traceback=failure and failure.traceback,
            finished_at=datetime.now(UTC),
        )
        .returning(EvaluationRow.id)
    ).first()
    if finished is None:
        return False
    _end_attempts(session, _is_attempt(campaign, attempt), outcome=state.value)
    if measurement.series:
        rows = [
            {
                "evaluation_id": finished.id,
                "name": series.name,
                "position": position,
                "points": tuple(zip(series.steps, series.values, strict=True)),
            }
            for position, series in enumerate(measurement.series)
        ]
        session.execute(insert(SeriesRow), rows)
    return True


def find_live(session: Session, campaign: str, key: EvaluationKey, *, worker: str) -> Attempt | None:
    """The attempt of this worker that holds the evaluation, if there is one."""
    campaign_id = find_campaign_id(session, campaign)
    row = session.execute(
        select(AttemptRow.id, AttemptRow.number, AttemptRow.expires)
        .join(EvaluationRow, AttemptRow.evaluation_id == EvaluationRow.id)
        .where(is_evaluation(campaign_id, key), EvaluationRow.state == LEASED)
        .where(AttemptRow.number == EvaluationRow.attempts, AttemptRow.worker == worker)
    ).first()
    return row and Attempt(id=row.id, key=key, number=row.number, worker=worker, expires=row.expires)


def has_finished(session: Session, campaign: str, attempt: Attempt) -> bool:
    """Whether it was this attempt that finished its evaluation."""
    ended = and_(_is_attempt(campaign, attempt), AttemptRow.outcome.in_(FINISHED))
    return session.scalar(select(AttemptRow.id).where(ended)) is not None


def abandon(session: Session, campaign: str, attempt: Attempt, *, reason: str, lost: bool = False) -> None:
    """Nothing happens to an attempt that no longer holds its evaluation."""
    campaign_id = find_campaign_id(session, campaign)
    given_back = session.execute(
        update(EvaluationRow)
        .where(_is_held(campaign_id, attempt))
        .values(state=PENDING, lease_expires=None)
        .returning(EvaluationRow.id)
    ).first()
    if given_back:
        outcome = LOST if lost else "abandoned"
        _end_attempts(session, _is_attempt(campaign, attempt), outcome=outcome, reason=reason)


def expire(session: Session, campaign: str) -> int:
    campaign_id = find_campaign_id(session, campaign)
    of_campaign = select(EvaluationRow.id).where(EvaluationRow.campaign_id == campaign_id)
    expired = session.execute(
        update(EvaluationRow)
        .where(EvaluationRow.campaign_id == campaign_id, EvaluationRow.state == LEASED)
        .values(state=PENDING, lease_expires=None)
        .returning(EvaluationRow.id)
    ).all()
    _end_attempts(session, AttemptRow.evaluation_id.in_(of_campaign), outcome="expired")
    return len(expired)


def count_attempts(session: Session, campaign: str, key: EvaluationKey) -> int:
    """0 for an evaluation that was never planned."""
    campaign_id = find_campaign_id(session, campaign)
    return session.scalar(select(EvaluationRow.attempts).where(is_evaluation(campaign_id, key))) or 0


def count_losses(session: Session, campaign: str, key: EvaluationKey) -> int:
    """Attempts that ended with the death of their worker."""
    campaign_id = find_campaign_id(session, campaign)
    lost = (
        select(func.count())
        .select_from(AttemptRow)
        .join(EvaluationRow, AttemptRow.evaluation_id == EvaluationRow.id)
        .where(is_evaluation(campaign_id, key), AttemptRow.outcome == LOST)
    )
    return session.scalar(lost) or 0


def idempotency_key(campaign: str, key: EvaluationKey, number: int) -> str:
    """Names a try by what it is, so that an answer given twice, or to another ledger, meets its own row or none."""
    parts = (campaign, key.candidate, key.task, str(key.rung), str(key.seed), str(number))
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:32]


def is_evaluation(campaign_id: int, key: EvaluationKey) -> ColumnElement[bool]:
    return and_(
        EvaluationRow.campaign_id == campaign_id,
        EvaluationRow.candidate == key.candidate,
        EvaluationRow.task == key.task,
        EvaluationRow.rung == key.rung,
        EvaluationRow.seed == key.seed,
    )


def not_planned(campaign: str, key: EvaluationKey) -> NotFoundError:
    return NotFoundError(
        f"campaign {campaign!r} has planned no evaluation of {key.candidate[:8]} on {key.task!r} "
        f"at rung {key.rung} with seed {key.seed}"
    )


def _is_held(campaign_id: int, attempt: Attempt) -> ColumnElement[bool]:
    live = and_(EvaluationRow.state == LEASED, EvaluationRow.attempts == attempt.number)
    return and_(is_evaluation(campaign_id, attempt.key), live)


def _is_attempt(campaign: str, attempt: Attempt) -> ColumnElement[bool]:
    return AttemptRow.idempotency_key == idempotency_key(campaign, attempt.key, attempt.number)


def _end_attempts(session: Session, which: ColumnElement[bool], *, outcome: str, reason: str | None = None) -> None:
    session.execute(
        update(AttemptRow)
        .where(which, AttemptRow.ended.is_(None))
        .values(ended=datetime.now(UTC), outcome=outcome, reason=reason)
    )


def _require_candidates(session: Session, campaign: str, campaign_id: int, ids: set[str]) -> None:
    there = select(CandidateRow.id).where(CandidateRow.campaign_id == campaign_id, CandidateRow.id.in_(ids))
    missing = ids - set(session.scalars(there))
    if missing:
        named = ", ".join(sorted(missing)[:5])
        raise NotFoundError(f"campaign {campaign!r} has no candidate {named}: add it before planning its evaluations")
