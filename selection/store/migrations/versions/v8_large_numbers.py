"""Numbers of a trial of 64 bits, as seeds and the parameters of the largest networks are."""

import sqlalchemy as sql
from alembic import op

revision, down_revision = "8", "7"

NUMBERS = ("parameters", "seed", "num_images")


def upgrade() -> None:
    """Widen the columns where they are narrower: SQLite keeps whole numbers of 64 bits whatever the column says."""
    connection = op.get_bind()
    if connection.dialect.name == "postgresql":
        for name in NUMBERS:
            op.alter_column("trials", name, existing_type=sql.Integer(), type_=sql.BigInteger())
    connection.execute(sql.text("UPDATE schema SET version = 8"))
