"""What tasks look like to backbones; batch sizes in configs."""

import sqlalchemy as sql
from alembic import op

from selection.store.migrations.configs import write_configs_out

revision, down_revision = "5", "4"


def upgrade() -> None:
    """Write the batch size into every config, and add the table of facts."""
    connection = op.get_bind()
    write_configs_out(connection)
    op.create_table(
        "facts",
        sql.Column("id", sql.Integer, primary_key=True),
        sql.Column("task_id", sql.Integer, sql.ForeignKey("tasks.id", ondelete="CASCADE"), nullable=False),
        sql.Column("backbone_fingerprint", sql.String(32), nullable=False),
        sql.Column("content", sql.Text, nullable=False),
        sql.UniqueConstraint("task_id", "backbone_fingerprint"),
    )
    connection.execute(sql.text("UPDATE schema SET version = 5"))
