"""At which change each embedding was written, so that a search index can catch up, and which store it is."""

import sqlalchemy as sql
from alembic import op

from selection.store.schema import new_identity

revision, down_revision = "3", "2"


def upgrade() -> None:
    """Add columns; whatever is there was written at the first change that an index can ask for."""
    for table, column in (
        ("schema", sql.Column("removals", sql.Integer, nullable=False, server_default="0")),
        ("schema", sql.Column("identity", sql.String(32), nullable=False, server_default="")),
        ("embeddings", sql.Column("revision", sql.Integer, nullable=False, server_default="0")),
    ):
        op.add_column(table, column)
    connection = op.get_bind()
    connection.execute(sql.text("UPDATE schema SET revision = revision + 1"))
    connection.execute(sql.text("UPDATE schema SET identity = :new"), {"new": new_identity()})
    connection.execute(sql.text("UPDATE embeddings SET revision = (SELECT revision FROM schema)"))
    for index in ("ix_embeddings_probe", "ix_embeddings_task_id", "ix_trials_task_id"):
        op.execute(f"DROP INDEX IF EXISTS {index}")
    op.create_index("ix_embeddings_written", "embeddings", ["probe", "method", "revision"])
    connection.execute(sql.text("UPDATE schema SET version = 3"))
