"""Configs of any length, told apart by their digests; longer names of estimators."""

import sqlalchemy as sql
from alembic import op

from selection.store.schema import config_digest_of

revision, down_revision = "7", "6"

BULK = 1000  # rows that are read and written at once


def upgrade() -> None:
    """Give every trial its config's digest, and the table of trials a key that has it in place of the config."""
    connection = op.get_bind()
    op.add_column("trials", sql.Column("config_digest", sql.String(64)))
    _write_digests(connection)
    # PostgreSQL named the old key itself. SQLite's has no name, and gets one by the convention while it is dropped.
    (old,) = sql.inspect(connection).get_unique_constraints("trials")
    with op.batch_alter_table("trials", naming_convention={"uq": "uq_%(table_name)s_old"}) as table:
        table.drop_constraint(old["name"] or "uq_trials_old", type_="unique")
        table.alter_column("config", existing_type=sql.String(2000), existing_nullable=False, type_=sql.Text())
        table.alter_column("config_digest", existing_type=sql.String(64), nullable=False)
        key = ["task_id", "backbone_fingerprint", "config_digest", "seed", "num_images"]
        table.create_unique_constraint("uq_trials", key)
    if connection.dialect.name == "postgresql":  # SQLite keeps texts of any length, whatever the column says
        op.alter_column("embeddings", "method", existing_type=sql.String(32), type_=sql.String(200))
    connection.execute(sql.text("UPDATE schema SET version = 7"))


def _write_digests(connection: sql.Connection) -> None:
    stored = sql.table("trials", *(sql.column(c) for c in ("id", "config", "config_digest")))
    some = sql.select(stored.c.id, stored.c.config).order_by(stored.c.id).limit(BULK)
    change = sql.update(stored).where(stored.c.id == sql.bindparam("number")).values(config_digest=sql.bindparam("new"))
    rows = connection.execute(some).all()
    while rows:
        connection.execute(change, [{"number": row.id, "new": config_digest_of(row.config)} for row in rows])
        rows = connection.execute(some.where(stored.c.id > rows[-1].id)).all()
