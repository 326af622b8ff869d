"""The tables of the ledger. Their rows never leave `archloom.db`: the store takes and returns frozen records.

    protocols ── campaigns ─┬─ candidates ─┬─ lineage
                            │              ├─ evaluations ─┬─ attempts
                            │              │               └─ series
                            │              ├─ lessons ── lesson_evidence (of evaluations)
                            │              └─ notes
                            └─ events, language_model_calls, artefacts

A candidate is named by its hash, unique within a campaign, so evaluations carry that hash and need no join to be read.
The schema itself is created by the migrations; a test holds the two equal.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, ClassVar

from sqlalchemy import (
    JSON,
    BigInteger,
    ForeignKey,
    ForeignKeyConstraint,
    Index,
    MetaData,
    Text,
    UniqueConstraint,
)
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column
from sqlalchemy.types import TypeEngine

from archloom.db.columns import Metrics, Point, Points, Prose, Real, Tuples, Utc

NAMING = {
    "pk": "pk_%(table_name)s",
    "fk": "fk_%(table_name)s_%(column_0_N_name)s",
    "uq": "uq_%(table_name)s_%(column_0_N_name)s",
    "ix": "ix_%(table_name)s_%(column_0_N_name)s",
}


class Table(DeclarativeBase):
    metadata = MetaData(naming_convention=NAMING)
    type_annotation_map: ClassVar[dict[Any, type[TypeEngine[Any]]]] = {
        str: Text,
        datetime: Utc,
        float: Real,
    }


def _candidate_reference(column: str = "candidate") -> ForeignKeyConstraint:
    return ForeignKeyConstraint(["campaign_id", column], ["candidates.campaign_id", "candidates.id"])


class ProtocolRow(Table):
    __tablename__ = "protocols"

    id: Mapped[str] = mapped_column(primary_key=True)
    json: Mapped[str]


class CampaignRow(Table):
    """`owner_*` name the process that runs the campaign now, all null when none does (see `db/ownership.py`)."""

    __tablename__ = "campaigns"

    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(unique=True)
    config: Mapped[str]
    config_hash: Mapped[str]
    protocol_id: Mapped[str] = mapped_column(ForeignKey("protocols.id"))
    seed: Mapped[int] = mapped_column(BigInteger)
    state: Mapped[str]
    created: Mapped[datetime]
    wall_seconds: Mapped[float]
    owner_token: Mapped[str | None]
    owner_pid: Mapped[int | None]
    owner_host: Mapped[str | None]
    owner_process: Mapped[str | None]
    owner_since: Mapped[datetime | None]
    owner_heartbeat: Mapped[datetime | None]


class CandidateRow(Table):
    __tablename__ = "candidates"
    __table_args__ = (UniqueConstraint("campaign_id", "index"),)

    campaign_id: Mapped[int] = mapped_column(ForeignKey("campaigns.id"), primary_key=True)
    id: Mapped[str] = mapped_column(primary_key=True)
    term: Mapped[str]
    origin: Mapped[str]
    index: Mapped[int]
    name: Mapped[str | None]
    operator: Mapped[str | None]
    rationale: Mapped[str | None] = mapped_column(Prose)
    author: Mapped[str | None] = mapped_column(Prose)
    predictions: Mapped[Sequence[tuple[str, float]]] = mapped_column(Tuples, nullable=True)
    cites: Mapped[Sequence[str]] = mapped_column(Tuples, nullable=True)


class LineageRow(Table):
    """The parents of a candidate in their order. A parent need not be in the campaign: seeds come from other ones."""

    __tablename__ = "lineage"
    __table_args__ = (_candidate_reference("child"), Index("ix_lineage_parent", "parent"))

    campaign_id: Mapped[int] = mapped_column(primary_key=True)
    child: Mapped[str] = mapped_column(primary_key=True)
    position: Mapped[int] = mapped_column(primary_key=True)
    parent: Mapped[str]


class EvaluationRow(Table):
    """One candidate, task, rung and seed. `attempts` counts the tries; under a lease it numbers the live one."""

    __tablename__ = "evaluations"
    __table_args__ = (
        UniqueConstraint("campaign_id", "candidate", "task", "rung", "seed"),
        _candidate_reference(),
        Index("ix_evaluations_campaign_id_state", "campaign_id", "state"),
    )

    id: Mapped[int] = mapped_column(primary_key=True)
    campaign_id: Mapped[int]
    candidate: Mapped[str]
    task: Mapped[str]
    rung: Mapped[int]
    seed: Mapped[int] = mapped_column(BigInteger)
    steps: Mapped[int]
    state: Mapped[str]
    attempts: Mapped[int] = mapped_column(default=0)
    lease_expires: Mapped[datetime | None]
    score: Mapped[float | None]
    metrics: Mapped[Mapping[str, float] | None] = mapped_column(Metrics)
    environment: Mapped[Mapping[str, str] | None] = mapped_column(JSON(none_as_null=True))
    seconds: Mapped[float | None]
    fingerprint: Mapped[str | None]
    failure_kind: Mapped[str | None]
    failure_reason: Mapped[str | None] = mapped_column(Prose)
    failure_traceback: Mapped[str | None] = mapped_column(Prose)
    finished_at: Mapped[datetime | None]


class AttemptRow(Table):
    """`outcome` is null while the attempt runs, then done, failed, lost, abandoned or expired."""

    __tablename__ = "attempts"
    __table_args__ = (UniqueConstraint("evaluation_id", "number"),)

    id: Mapped[int] = mapped_column(primary_key=True)
    evaluation_id: Mapped[int] = mapped_column(ForeignKey("evaluations.id"))
    number: Mapped[int]
    worker: Mapped[str]
    started: Mapped[datetime]
    expires: Mapped[datetime]
    ended: Mapped[datetime | None]
    outcome: Mapped[str | None]
    reason: Mapped[str | None] = mapped_column(Prose)
    idempotency_key: Mapped[str] = mapped_column(unique=True)


class SeriesRow(Table):
    """`position` keeps the order in which the worker gave its series, and tells apart two of one name."""

    __tablename__ = "series"

    evaluation_id: Mapped[int] = mapped_column(ForeignKey("evaluations.id"), primary_key=True)
    position: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str]
    points: Mapped[Sequence[Point]] = mapped_column(Points)


class EventRow(Table):
    __tablename__ = "events"
    __table_args__ = (Index("ix_events_campaign_id_id", "campaign_id", "id"),)

    id: Mapped[int] = mapped_column(primary_key=True)
    campaign_id: Mapped[int] = mapped_column(ForeignKey("campaigns.id"))
    at: Mapped[datetime]
    kind: Mapped[str]
    text: Mapped[str] = mapped_column(Prose)


class LanguageModelCallRow(Table):
    __tablename__ = "language_model_calls"
    __table_args__ = (Index("ix_language_model_calls_campaign_id_id", "campaign_id", "id"),)

    id: Mapped[int] = mapped_column(primary_key=True)
    campaign_id: Mapped[int] = mapped_column(ForeignKey("campaigns.id"))
    key: Mapped[str] = mapped_column(unique=True)
    at: Mapped[datetime]
    role: Mapped[str]
    prompt: Mapped[str]
    endpoint: Mapped[str]
    model: Mapped[str]
    ask: Mapped[int] = mapped_column(BigInteger)
    subject: Mapped[str | None]
    request: Mapped[str] = mapped_column(Prose)
    response: Mapped[str | None] = mapped_column(Prose)
    prompt_tokens: Mapped[int]
    completion_tokens: Mapped[int]
    cost: Mapped[int] = mapped_column(BigInteger)
    seconds: Mapped[float]


class LessonRow(Table):
    """What the analyst learnt from a candidate; `lesson_evidence` names the evaluations that show it."""

    __tablename__ = "lessons"
    __table_args__ = (_candidate_reference(), Index("ix_lessons_campaign_id_id", "campaign_id", "id"))

    id: Mapped[int] = mapped_column(primary_key=True)
    campaign_id: Mapped[int]
    candidate: Mapped[str]
    at: Mapped[datetime]
    text: Mapped[str] = mapped_column(Prose)


class LessonEvidenceRow(Table):
    __tablename__ = "lesson_evidence"

    lesson_id: Mapped[int] = mapped_column(ForeignKey("lessons.id"), primary_key=True)
    evaluation_id: Mapped[int] = mapped_column(ForeignKey("evaluations.id"), primary_key=True)


class ArtefactRow(Table):
    """A file that belongs to a campaign or to one of its candidates. The file itself lies outside the database."""

    __tablename__ = "artefacts"
    __table_args__ = (_candidate_reference(), Index("ix_artefacts_campaign_id_candidate", "campaign_id", "candidate"))

    id: Mapped[int] = mapped_column(primary_key=True)
    campaign_id: Mapped[int] = mapped_column(ForeignKey("campaigns.id"))
    candidate: Mapped[str | None]
    kind: Mapped[str]
    path: Mapped[str]
    sha256: Mapped[str]
    created: Mapped[datetime]


class NoteRow(Table):
    __tablename__ = "notes"
    __table_args__ = (_candidate_reference(), Index("ix_notes_campaign_id_candidate", "campaign_id", "candidate"))

    id: Mapped[int] = mapped_column(primary_key=True)
    campaign_id: Mapped[int]
    candidate: Mapped[str]
    at: Mapped[datetime]
    text: Mapped[str] = mapped_column(Prose)
