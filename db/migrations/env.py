"""Alembic runs this file; the store hands it a connection with an open transaction (`db/schema.py`)."""

from alembic import context

from archloom.db.tables import Table

# SQLite alters a table by copying it (batch mode), so later migrations are written for both databases at once.
context.configure(
    connection=context.config.attributes["connection"], target_metadata=Table.metadata, render_as_batch=True
)
with context.begin_transaction():
    context.run_migrations()
