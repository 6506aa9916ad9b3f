"""Trials whose score was not measured, and learning curves; new fingerprints of the bundled backbone."""

import sqlalchemy as sql
from alembic import op

from selection.store.migrations.configs import write_configs_out

revision, down_revision = "4", "3"

# Fingerprints stopped counting what depends on the size of the images; of the bundled backbone both are known.
OLD, NEW = "a7bfaa686a2b2bb6aaaa3c6753005942", "ce5f5636c564d3ce3645a9e619d000a9"


def upgrade() -> None:
    """Change the table of trials; SQLite's is made again."""
    connection = op.get_bind()
    connection.execute(
        sql.text("UPDATE trials SET backbone_fingerprint = :new WHERE backbone_fingerprint = :old"),
        {"old": OLD, "new": NEW},
    )
    write_configs_out(connection)
    with op.batch_alter_table("trials") as table:
        table.alter_column("score", existing_type=sql.Float(), nullable=True)
        table.add_column(sql.Column("curve", sql.Text, nullable=False, server_default="[]"))
    connection.execute(sql.text("UPDATE schema SET version = 4"))
