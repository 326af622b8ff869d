"""What is only ever appended to a campaign: events and language-model calls."""

from dataclasses import asdict

from sqlalchemy import and_, insert, select
from sqlalchemy.orm import Session

from archloom.db.campaigns import find_campaign_id
from archloom.db.records import Event, LanguageModelCall
from archloom.db.tables import EventRow, LanguageModelCallRow


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


def record_call(session: Session, campaign: str, call: LanguageModelCall) -> None:
    key = find_campaign_id(session, campaign)
    session.execute(insert(LanguageModelCallRow).values(campaign_id=key, **asdict(call)))


def has_call(session: Session, campaign: str, call: LanguageModelCall) -> bool:
    """Whether a call of this moment to this model is there: no process makes two at once."""
    key = find_campaign_id(session, campaign)
    row = LanguageModelCallRow
    mine = and_(row.campaign_id == key, row.at == call.at, row.model == call.model)
    return session.scalar(select(row.id).where(mine).limit(1)) is not None


def list_calls(session: Session, campaign: str) -> tuple[LanguageModelCall, ...]:
    key = find_campaign_id(session, campaign)
    calls = (
        select(
            LanguageModelCallRow.at,
            LanguageModelCallRow.model,
            LanguageModelCallRow.request,
            LanguageModelCallRow.response,
            LanguageModelCallRow.prompt_tokens,
            LanguageModelCallRow.completion_tokens,
            LanguageModelCallRow.seconds,
        )
        .where(LanguageModelCallRow.campaign_id == key)
        .order_by(LanguageModelCallRow.id)
    )
    return tuple(LanguageModelCall(**row._mapping) for row in session.execute(calls))
