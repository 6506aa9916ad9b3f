"""The Fisher lies by itself, so that searching reads nothing else; tags, sources, environments, checksums."""

import sqlalchemy as sql
from alembic import op
from safetensors.numpy import load as from_bytes
from safetensors.numpy import save as to_bytes

from selection.store.schema import checksum_of

revision, down_revision = "2", "1"


def upgrade() -> None:
    """Add columns, and take every embedding's tensors apart."""
    for table, column in (
        ("schema", sql.Column("revision", sql.Integer, nullable=False, server_default="0")),
        ("tasks", sql.Column("tags", sql.Text, nullable=False, server_default="[]")),
        ("tasks", sql.Column("source", sql.Text, nullable=False, server_default="")),
        ("embeddings", sql.Column("fisher", sql.LargeBinary, nullable=False, server_default="")),
        ("embeddings", sql.Column("checksum", sql.String(64), nullable=False, server_default="")),
        ("trials", sql.Column("environment", sql.Text, nullable=False, server_default="")),
    ):
        op.add_column(table, column)
    stored = sql.table("embeddings", *(sql.column(c) for c in ("id", "tensors", "facts", "fisher", "checksum")))
    connection = op.get_bind()
    for row in connection.execute(sql.select(stored.c.id, stored.c.tensors, stored.c.facts)).all():
        parts = from_bytes(row.tensors)
        fisher = parts.pop("fisher").astype("<f4").tobytes()
        tensors = to_bytes(parts)
        new = {"fisher": fisher, "tensors": tensors, "checksum": checksum_of(fisher, tensors, row.facts)}
        connection.execute(sql.update(stored).where(stored.c.id == row.id).values(new))
    connection.execute(sql.text("UPDATE schema SET version = 2"))
