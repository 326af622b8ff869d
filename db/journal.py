"""What is only ever appended to a campaign: events, language-model calls and lessons."""

from collections import defaultdict
from dataclasses import asdict, fields

from sqlalchemy import and_, insert, select, update
from sqlalchemy.orm import Session

from archloom.db.campaigns import find_campaign_id
from archloom.db.evaluations import is_evaluation, not_planned
from archloom.db.records import EvaluationKey, Event, LanguageModelCall, Lesson, Role
from archloom.db.tables import EvaluationRow, EventRow, LanguageModelCallRow, LessonEvidenceRow, LessonRow


def add_event(session: Session, campaign: str, event: Event) -> None:
    key = find_campaign_id(session, campaign)
    session.execute(insert(EventRow).values(campaign_id=key, **asdict(event)))


def has_event(session: Session, campaign: str, event: Event) -> bool:
    """Whether an event of this kind and moment is there: no process has two."""
    key = find_campaign_id(session, campaign)
    mine = and_(EventRow.campaign_id == key, EventRow.at == event.at, EventRow.kind == event.kind)
    return session.scalar(select(EventRow.id).where(mine).limit(1)) is not None


def list_events(session: Session, campaign: str, *, last: int) -> tuple[Event, ...]:
    key = find_campaign_id(session, campaign)
    newest_first = (
        select(EventRow.at, EventRow.kind, EventRow.text)
        .where(EventRow.campaign_id == key)
        .order_by(EventRow.id.desc())
        .limit(last)
    )
    newest = [Event(at=at, kind=kind, text=text) for at, kind, text in session.execute(newest_first)]
    return tuple(reversed(newest))


def reserve_call(session: Session, campaign: str, call: LanguageModelCall) -> None:
    key = find_campaign_id(session, campaign)
    session.execute(insert(LanguageModelCallRow).values(campaign_id=key, **asdict(call)))


def has_call(session: Session, campaign: str, call: LanguageModelCall) -> bool:
    key = find_campaign_id(session, campaign)
    mine = and_(LanguageModelCallRow.campaign_id == key, LanguageModelCallRow.key == call.key)
    return session.scalar(select(LanguageModelCallRow.id).where(mine)) is not None


def settle_call(session: Session, campaign: str, call: LanguageModelCall) -> None:
    key = find_campaign_id(session, campaign)
    mine = and_(LanguageModelCallRow.campaign_id == key, LanguageModelCallRow.key == call.key)
    session.execute(update(LanguageModelCallRow).where(mine).values(**asdict(call)))


def list_calls(session: Session, campaign: str) -> tuple[LanguageModelCall, ...]:
    key = find_campaign_id(session, campaign)
    columns = [getattr(LanguageModelCallRow, field.name) for field in fields(LanguageModelCall)]
    calls = select(*columns).where(LanguageModelCallRow.campaign_id == key).order_by(LanguageModelCallRow.id)
    rows = session.execute(calls).mappings()
    return tuple(LanguageModelCall(**{**row, "role": Role(row["role"])}) for row in rows)


def add_lesson(session: Session, campaign: str, lesson: Lesson) -> None:
    """Errors: `NotFoundError` for evidence that was not planned."""
    key = find_campaign_id(session, campaign)
    row = LessonRow(campaign_id=key, candidate=lesson.candidate, at=lesson.when, text=lesson.text)
    session.add(row)
    session.flush()
    for evaluation in lesson.evidence:
        found = session.scalar(select(EvaluationRow.id).where(is_evaluation(key, evaluation)))
        if found is None:
            raise not_planned(campaign, evaluation)
        session.add(LessonEvidenceRow(lesson_id=row.id, evaluation_id=found))


def has_lesson(session: Session, campaign: str, lesson: Lesson) -> bool:
    """Whether this was learnt from this candidate: the analyst says a thing once."""
    key = find_campaign_id(session, campaign)
    mine = and_(LessonRow.campaign_id == key, LessonRow.candidate == lesson.candidate, LessonRow.text == lesson.text)
    return session.scalar(select(LessonRow.id).where(mine).limit(1)) is not None


def list_lessons(session: Session, campaign: str) -> tuple[Lesson, ...]:
    key = find_campaign_id(session, campaign)
    evidence: dict[int, list[EvaluationKey]] = defaultdict(list)
    shown = (
        select(
            LessonEvidenceRow.lesson_id,
            EvaluationRow.candidate,
            EvaluationRow.task,
            EvaluationRow.rung,
            EvaluationRow.seed,
        )
        .join(LessonRow, LessonRow.id == LessonEvidenceRow.lesson_id)
        .join(EvaluationRow, EvaluationRow.id == LessonEvidenceRow.evaluation_id)
        .where(LessonRow.campaign_id == key)
        .order_by(LessonEvidenceRow.lesson_id, EvaluationRow.id)
    )
    for lesson, candidate, task, rung, seed in session.execute(shown):
        evidence[lesson].append(EvaluationKey(candidate=candidate, task=task, rung=rung, seed=seed))
    rows = select(LessonRow.id, LessonRow.candidate, LessonRow.at, LessonRow.text).where(LessonRow.campaign_id == key)
    return tuple(
        Lesson(text=text, candidate=candidate, evidence=tuple(evidence[lesson]), when=at)
        for lesson, candidate, at, text in session.execute(rows.order_by(LessonRow.id))
    )
