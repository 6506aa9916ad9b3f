"""Small pictures of the images of tasks."""

import sqlalchemy as sql
from alembic import op

revision, down_revision = "6", "5"


def upgrade() -> None:
    """Add the table of thumbnails."""
    op.create_table(
        "thumbnails",
        sql.Column("id", sql.Integer, primary_key=True),
        sql.Column("task_id", sql.Integer, sql.ForeignKey("tasks.id", ondelete="CASCADE"), nullable=False),
        sql.Column("label", sql.Text, nullable=False),
        sql.Column("webp", sql.LargeBinary, nullable=False),
    )
    op.create_index("ix_thumbnails_task_id", "thumbnails", ["task_id"])
    op.get_bind().execute(sql.text("UPDATE schema SET version = 6"))
