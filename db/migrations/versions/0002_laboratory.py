"""What language models predict and cite, what each call costs, and the lessons of campaigns."""

from typing import Any

import sqlalchemy as sa
from alembic import op
from sqlalchemy.types import TypeEngine

revision = "0002"
down_revision = "0001"

TIME = sa.DateTime(timezone=True)
CALLS: dict[str, tuple[TypeEngine[Any], str]] = {
    "key": (sa.Text(), "'call ' || id"),
    "role": (sa.Text(), "'researcher'"),
    "prompt": (sa.Text(), "'researcher/0'"),
    "endpoint": (sa.Text(), "''"),
    "ask": (sa.BigInteger(), "0"),
    "cost": (sa.BigInteger(), "0"),
}
"""New columns of calls, and what they are in those made before."""


def upgrade() -> None:
    with op.batch_alter_table("candidates") as candidates:
        candidates.add_column(sa.Column("author", sa.Text()))
        candidates.add_column(sa.Column("predictions", sa.JSON()))
        candidates.add_column(sa.Column("cites", sa.JSON()))
    _calls()
    _lessons()


def _calls() -> None:
    with op.batch_alter_table("language_model_calls") as calls:
        for name, (kind, _) in CALLS.items():
            calls.add_column(sa.Column(name, kind))
        calls.add_column(sa.Column("subject", sa.Text()))
    values = ", ".join(f"{name} = {value}" for name, (_, value) in CALLS.items())
    op.execute(f"UPDATE language_model_calls SET {values}")
    with op.batch_alter_table("language_model_calls") as calls:
        for name, (kind, _) in CALLS.items():
            calls.alter_column(name, existing_type=kind, nullable=False)
        calls.alter_column("response", existing_type=sa.Text(), nullable=True)
        calls.create_unique_constraint("uq_language_model_calls_key", ["key"])


def _lessons() -> None:
    op.create_table(
        "lessons",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("campaign_id", sa.Integer(), nullable=False),
        sa.Column("candidate", sa.Text(), nullable=False),
        sa.Column("at", TIME, nullable=False),
        sa.Column("text", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(
            ["campaign_id", "candidate"],
            ["candidates.campaign_id", "candidates.id"],
            name="fk_lessons_campaign_id_candidate",
        ),
        sa.PrimaryKeyConstraint("id", name="pk_lessons"),
    )
    op.create_index("ix_lessons_campaign_id_id", "lessons", ["campaign_id", "id"])
    op.create_table(
        "lesson_evidence",
        sa.Column("lesson_id", sa.Integer(), nullable=False),
        sa.Column("evaluation_id", sa.Integer(), nullable=False),
        sa.ForeignKeyConstraint(["lesson_id"], ["lessons.id"], name="fk_lesson_evidence_lesson_id"),
        sa.ForeignKeyConstraint(["evaluation_id"], ["evaluations.id"], name="fk_lesson_evidence_evaluation_id"),
        sa.PrimaryKeyConstraint("lesson_id", "evaluation_id", name="pk_lesson_evidence"),
    )
