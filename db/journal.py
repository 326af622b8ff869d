"""What is only ever appended to a campaign: events and language-model calls."""

from dataclasses import asdict
from datetime import UTC, datetime

from sqlalchemy import insert, select
from sqlalchemy.orm import Session

from archloom.db.campaigns import find_campaign_id
from archloom.db.records import Event, LanguageModelCall
from archloom.db.tables import EventRow, LanguageModelCallRow


def add_event(session: Session, campaign: str, *, kind: str, text: str) -> None:
    key = find_campaign_id(session, campaign)
    session.execute(insert(EventRow).values(campaign_id=key, at=datetime.now(UTC), kind=kind, text=text))


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
