"""The first schema, in plain types: it goes on making the same tables when `db/tables.py` has moved on.

There is no way down: a ledger never forgets.
"""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None

TIME = sa.DateTime(timezone=True)


def upgrade() -> None:
    _campaigns()
    _candidates()
    _evaluations()
    _journal()


def _campaigns() -> None:
    op.create_table(
        "protocols",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("json", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_protocols"),
    )
    op.create_table(
        "campaigns",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("config", sa.Text(), nullable=False),
        sa.Column("config_hash", sa.Text(), nullable=False),
        sa.Column("protocol_id", sa.Text(), nullable=False),
        sa.Column("seed", sa.BigInteger(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("created", TIME, nullable=False),
        sa.Column("wall_seconds", sa.Double(), nullable=False),
        sa.Column("owner_token", sa.Text()),
        sa.Column("owner_pid", sa.Integer()),
        sa.Column("owner_host", sa.Text()),
        sa.Column("owner_process", sa.Text()),
        sa.Column("owner_since", TIME),
        sa.Column("owner_heartbeat", TIME),
        sa.ForeignKeyConstraint(["protocol_id"], ["protocols.id"], name="fk_campaigns_protocol_id"),
        sa.PrimaryKeyConstraint("id", name="pk_campaigns"),
        sa.UniqueConstraint("name", name="uq_campaigns_name"),
    )


def _candidates() -> None:
    op.create_table(
        "candidates",
        sa.Column("campaign_id", sa.Integer(), nullable=False),
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("term", sa.Text(), nullable=False),
        sa.Column("origin", sa.Text(), nullable=False),
        sa.Column("index", sa.Integer(), nullable=False),
        sa.Column("name", sa.Text()),
        sa.Column("operator", sa.Text()),
        sa.Column("rationale", sa.Text()),
        sa.ForeignKeyConstraint(["campaign_id"], ["campaigns.id"], name="fk_candidates_campaign_id"),
        sa.PrimaryKeyConstraint("campaign_id", "id", name="pk_candidates"),
        sa.UniqueConstraint("campaign_id", "index", name="uq_candidates_campaign_id_index"),
    )
    op.create_table(
        "lineage",
        sa.Column("campaign_id", sa.Integer(), nullable=False),
        sa.Column("child", sa.Text(), nullable=False),
        sa.Column("position", sa.Integer(), nullable=False),
        sa.Column("parent", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(
            ["campaign_id", "child"], ["candidates.campaign_id", "candidates.id"], name="fk_lineage_campaign_id_child"
        ),
        sa.PrimaryKeyConstraint("campaign_id", "child", "position", name="pk_lineage"),
    )
    op.create_index("ix_lineage_parent", "lineage", ["parent"])
    op.create_table(
        "notes",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("campaign_id", sa.Integer(), nullable=False),
        sa.Column("candidate", sa.Text(), nullable=False),
        sa.Column("at", TIME, nullable=False),
        sa.Column("text", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(
            ["campaign_id", "candidate"],
            ["candidates.campaign_id", "candidates.id"],
            name="fk_notes_campaign_id_candidate",
        ),
        sa.PrimaryKeyConstraint("id", name="pk_notes"),
    )
    op.create_index("ix_notes_campaign_id_candidate", "notes", ["campaign_id", "candidate"])


def _evaluations() -> None:
    op.create_table(
        "evaluations",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("campaign_id", sa.Integer(), nullable=False),
        sa.Column("candidate", sa.Text(), nullable=False),
        sa.Column("task", sa.Text(), nullable=False),
        sa.Column("rung", sa.Integer(), nullable=False),
        sa.Column("seed", sa.BigInteger(), nullable=False),
        sa.Column("steps", sa.Integer(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("lease_expires", TIME),
        sa.Column("score", sa.Double()),
        sa.Column("metrics", sa.JSON()),
        sa.Column("environment", sa.JSON()),
        sa.Column("seconds", sa.Double()),
        sa.Column("fingerprint", sa.Text()),
        sa.Column("failure_kind", sa.Text()),
        sa.Column("failure_reason", sa.Text()),
        sa.Column("failure_traceback", sa.Text()),
        sa.Column("finished_at", TIME),
        sa.ForeignKeyConstraint(
            ["campaign_id", "candidate"],
            ["candidates.campaign_id", "candidates.id"],
            name="fk_evaluations_campaign_id_candidate",
        ),
        sa.PrimaryKeyConstraint("id", name="pk_evaluations"),
        sa.UniqueConstraint(
            "campaign_id",
            "candidate",
            "task",
            "rung",
            "seed",
            name="uq_evaluations_campaign_id_candidate_task_rung_seed",
        ),
    )
    op.create_index("ix_evaluations_campaign_id_state", "evaluations", ["campaign_id", "state"])
    op.create_table(
        "attempts",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("evaluation_id", sa.Integer(), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("worker", sa.Text(), nullable=False),
        sa.Column("started", TIME, nullable=False),
        sa.Column("expires", TIME, nullable=False),
        sa.Column("ended", TIME),
        sa.Column("outcome", sa.Text()),
        sa.Column("reason", sa.Text()),
        sa.Column("idempotency_key", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(["evaluation_id"], ["evaluations.id"], name="fk_attempts_evaluation_id"),
        sa.PrimaryKeyConstraint("id", name="pk_attempts"),
        sa.UniqueConstraint("evaluation_id", "number", name="uq_attempts_evaluation_id_number"),
        sa.UniqueConstraint("idempotency_key", name="uq_attempts_idempotency_key"),
    )
    op.create_table(
        "series",
        sa.Column("evaluation_id", sa.Integer(), nullable=False),
        sa.Column("position", sa.Integer(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("points", sa.JSON(), nullable=False),
        sa.ForeignKeyConstraint(["evaluation_id"], ["evaluations.id"], name="fk_series_evaluation_id"),
        sa.PrimaryKeyConstraint("evaluation_id", "position", name="pk_series"),
    )


def _journal() -> None:
    op.create_table(
        "events",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("campaign_id", sa.Integer(), nullable=False),
        sa.Column("at", TIME, nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("text", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(["campaign_id"], ["campaigns.id"], name="fk_events_campaign_id"),
        sa.PrimaryKeyConstraint("id", name="pk_events"),
    )
    op.create_index("ix_events_campaign_id_id", "events", ["campaign_id", "id"])
    op.create_table(
        "language_model_calls",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("campaign_id", sa.Integer(), nullable=False),
        sa.Column("at", TIME, nullable=False),
        sa.Column("model", sa.Text(), nullable=False),
        sa.Column("request", sa.Text(), nullable=False),
        sa.Column("response", sa.Text(), nullable=False),
        sa.Column("prompt_tokens", sa.Integer(), nullable=False),
        sa.Column("completion_tokens", sa.Integer(), nullable=False),
        sa.Column("seconds", sa.Double(), nullable=False),
        sa.ForeignKeyConstraint(["campaign_id"], ["campaigns.id"], name="fk_language_model_calls_campaign_id"),
        sa.PrimaryKeyConstraint("id", name="pk_language_model_calls"),
    )
    op.create_index("ix_language_model_calls_campaign_id_id", "language_model_calls", ["campaign_id", "id"])
    op.create_table(
        "artefacts",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("campaign_id", sa.Integer(), nullable=False),
        sa.Column("candidate", sa.Text()),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("path", sa.Text(), nullable=False),
        sa.Column("sha256", sa.Text(), nullable=False),
        sa.Column("created", TIME, nullable=False),
        sa.ForeignKeyConstraint(
            ["campaign_id", "candidate"],
            ["candidates.campaign_id", "candidates.id"],
            name="fk_artefacts_campaign_id_candidate",
        ),
        sa.ForeignKeyConstraint(["campaign_id"], ["campaigns.id"], name="fk_artefacts_campaign_id"),
        sa.PrimaryKeyConstraint("id", name="pk_artefacts"),
    )
    op.create_index("ix_artefacts_campaign_id_candidate", "artefacts", ["campaign_id", "candidate"])
