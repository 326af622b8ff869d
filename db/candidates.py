"""Candidates, their lineage and notes as statements on a session."""

from collections import defaultdict
from dataclasses import replace
from datetime import UTC, datetime

from sqlalchemy import ColumnElement, func, insert, or_, select
from sqlalchemy.orm import Session

from archloom.db.campaigns import find_campaign_id
from archloom.db.columns import storable
from archloom.db.records import Candidate, Origin
from archloom.db.tables import CandidateRow, LineageRow, NoteRow
from archloom.errors import ConfigError, NotFoundError

LISTED = 5

COLUMNS = (
    CandidateRow.id,
    CandidateRow.term,
    CandidateRow.origin,
    CandidateRow.index,
    CandidateRow.name,
    CandidateRow.operator,
    CandidateRow.rationale,
    CandidateRow.author,
    CandidateRow.predictions,
    CandidateRow.cites,
)


def add_candidate(session: Session, campaign: str, candidate: Candidate) -> None:
    key = find_campaign_id(session, campaign)
    same = or_(CandidateRow.id == candidate.id, CandidateRow.index == candidate.index)
    there = _read(session, key, same)
    if there == (_as_stored(candidate),):
        return
    if there:
        raise ConfigError(
            f"campaign {campaign!r} holds candidate {there[0].short} as number {there[0].index} and cannot hold "
            f"{candidate.short} as number {candidate.index}: a hash and a number belong to one record"
        )
    session.execute(
        insert(CandidateRow).values(
            campaign_id=key,
            id=candidate.id,
            term=candidate.term,
            origin=candidate.origin.value,
            index=candidate.index,
            name=candidate.name,
            operator=candidate.operator,
            rationale=candidate.rationale,
            author=candidate.author,
            predictions=candidate.predictions,
            cites=candidate.cites,
        )
    )
    if candidate.parents:
        parents = enumerate(candidate.parents)
        lineage = [{"campaign_id": key, "child": candidate.id, "position": n, "parent": p} for n, p in parents]
        session.execute(insert(LineageRow), lineage)


def _as_stored(candidate: Candidate) -> Candidate:
    """What is read back of it: texts from outside with what no database can hold as escapes."""
    return replace(
        candidate,
        rationale=None if candidate.rationale is None else storable(candidate.rationale),
        author=None if candidate.author is None else storable(candidate.author),
        cites=tuple(map(storable, candidate.cites)),
    )


def find_candidate(session: Session, prefix: str, *, campaign: str | None) -> Candidate:
    """By name, else by the beginning of its hash. The same hash in several campaigns is one: the latest is given."""
    within = () if campaign is None else (CandidateRow.campaign_id == find_campaign_id(session, campaign),)
    matches = _latest_by_hash(session, CandidateRow.name == prefix, *within)
    if not matches and prefix:
        # No LIKE, which ignores case on SQLite only and gives a meaning to % and _.
        matches = _latest_by_hash(session, func.substr(CandidateRow.id, 1, len(prefix)) == prefix, *within)
    if len(matches) == 1:
        identity, campaign_id, _ = matches[0]
        return _read(session, campaign_id, CandidateRow.id == identity)[0]
    where = "this ledger" if campaign is None else f"campaign {campaign!r}"
    if matches:
        raise NotFoundError(f"{prefix!r} begins several candidates of {where}: {_listed(matches)}; write more letters")
    some = _latest_by_hash(session, *within)
    holds = f"which holds: {_listed(some)}" if some else "which holds none yet"
    raise NotFoundError(f"no candidate of {where} has the name {prefix!r} or a hash beginning so, {holds}")


def list_candidates(session: Session, campaign: str) -> tuple[Candidate, ...]:
    """In the order of their index."""
    key = find_campaign_id(session, campaign)
    return _read(session, key)


def add_note(session: Session, campaign: str, candidate: str, text: str) -> None:
    found = find_candidate(session, candidate, campaign=campaign)
    key = find_campaign_id(session, campaign)
    session.execute(insert(NoteRow).values(campaign_id=key, candidate=found.id, at=datetime.now(UTC), text=text))


def list_notes(session: Session, campaign: str, candidate: str) -> tuple[str, ...]:
    """Oldest first."""
    found = find_candidate(session, candidate, campaign=campaign)
    key = find_campaign_id(session, campaign)
    of_candidate = (NoteRow.campaign_id == key) & (NoteRow.candidate == found.id)
    return tuple(session.scalars(select(NoteRow.text).where(of_candidate).order_by(NoteRow.id)))


def _read(session: Session, key: int, *conditions: ColumnElement[bool]) -> tuple[Candidate, ...]:
    """The candidates of one campaign that meet all conditions, with their parents, by index."""
    chosen = select(*COLUMNS).where(CandidateRow.campaign_id == key, *conditions).order_by(CandidateRow.index)
    rows = session.execute(chosen).mappings().all()
    if not rows:
        return ()
    lineage = select(LineageRow.child, LineageRow.parent).where(LineageRow.campaign_id == key)
    if conditions:
        lineage = lineage.where(LineageRow.child.in_([row["id"] for row in rows]))
    parents: dict[str, list[str]] = defaultdict(list)
    for child, parent in session.execute(lineage.order_by(LineageRow.child, LineageRow.position)):
        parents[child].append(parent)
    return tuple(
        Candidate(**{**row, "origin": Origin(row["origin"]), "parents": tuple(parents[row["id"]])}) for row in rows
    )


def _latest_by_hash(session: Session, *conditions: ColumnElement[bool]) -> list[tuple[str, int, str | None]]:
    """Hash, latest campaign and name of up to `LISTED` + 1 matches, newest first, each hash once."""
    latest = func.max(CandidateRow.campaign_id)
    statement = (
        select(CandidateRow.id, latest, func.max(CandidateRow.name))
        .where(*conditions)
        .group_by(CandidateRow.id)
        .order_by(latest.desc(), CandidateRow.id)
        .limit(LISTED + 1)
    )
    return [(identity, campaign_id, name) for identity, campaign_id, name in session.execute(statement)]


def _listed(matches: list[tuple[str, int, str | None]]) -> str:
    named = [f"{identity[:8]} ({name})" if name else identity[:8] for identity, _, name in matches[:LISTED]]
    return ", ".join(named) + (", …" if len(matches) > LISTED else "")
