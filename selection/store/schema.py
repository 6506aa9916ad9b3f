"""The store's tables, and how a database of an older schema becomes one of this.

Schema 1 kept all tensors of an embedding in one blob. Schema 2 keeps the Fisher by itself, so that searching reads
nothing else, knows tags and sources of tasks, what trials were run with, and a checksum of every embedding, and names
adapters by their content. Schema 3 knows at which change an embedding was written, so that a search index can catch
up, and who it is, so that the index of another store is not mistaken for its own. Schema 4 has trials whose test score
was not measured, and the learning curve of each. Schema 5 knows what a task looks like to the backbones that were
tuned on it.
"""

from __future__ import annotations

import hashlib
import json
import re
import uuid
from collections.abc import Callable

import sqlalchemy as sql
from safetensors.numpy import load as from_bytes
from safetensors.numpy import save as to_bytes
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, relationship

from selection.store.trial import config_of_version_0_1

SCHEMA_VERSION = 5

_CONTROL = re.compile(r"[\x00-\x1f\x7f]")

NAME_LENGTH = 200  # the most characters that a task's name may have


class Base(DeclarativeBase):
    """Parent of the tables."""


class SchemaRow(Base):
    """The version of the tables and how often what they hold was changed, in a single row."""

    __tablename__ = "schema"
    version: Mapped[int] = mapped_column(primary_key=True)
    revision: Mapped[int] = mapped_column(server_default="0")
    removals: Mapped[int] = mapped_column(server_default="0")
    identity: Mapped[str] = mapped_column(sql.String(32), server_default="")


class TaskRow(Base):
    """A stored task."""

    __tablename__ = "tasks"
    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(sql.String(NAME_LENGTH), unique=True)
    num_images: Mapped[int]
    classes: Mapped[str] = mapped_column(sql.Text)
    tags: Mapped[str] = mapped_column(sql.Text, server_default="[]")
    source: Mapped[str] = mapped_column(sql.Text, server_default="")
    adapter: Mapped[str | None] = mapped_column(sql.Text)
    embeddings: Mapped[list[EmbeddingRow]] = relationship(cascade="all, delete-orphan")
    trials: Mapped[list[TrialRow]] = relationship(cascade="all, delete-orphan", order_by="TrialRow.id")
    facts: Mapped[list[FactsRow]] = relationship(cascade="all, delete-orphan", order_by="FactsRow.id")


class EmbeddingRow(Base):
    """The embedding of a task under one probe, by one estimator.

    `fisher` holds little-endian float32, `tensors` everything else that is a tensor, as safetensors.
    """

    __tablename__ = "embeddings"
    __table_args__ = (
        sql.UniqueConstraint("task_id", "probe", "method"),
        sql.Index("ix_embeddings_written", "probe", "method", "revision"),
    )
    id: Mapped[int] = mapped_column(primary_key=True)
    task_id: Mapped[int] = mapped_column(sql.ForeignKey("tasks.id", ondelete="CASCADE"))
    probe: Mapped[str] = mapped_column(sql.String(32))
    method: Mapped[str] = mapped_column(sql.String(32))
    tensors: Mapped[bytes]
    facts: Mapped[str] = mapped_column(sql.Text)
    fisher: Mapped[bytes] = mapped_column(sql.LargeBinary, server_default="")
    checksum: Mapped[str] = mapped_column(sql.String(64), server_default="")
    revision: Mapped[int] = mapped_column(server_default="0")


class TrialRow(Base):
    """A trial of a task."""

    __tablename__ = "trials"
    __table_args__ = (sql.UniqueConstraint("task_id", "backbone_fingerprint", "config", "seed", "num_images"),)
    id: Mapped[int] = mapped_column(primary_key=True)
    task_id: Mapped[int] = mapped_column(sql.ForeignKey("tasks.id", ondelete="CASCADE"))
    config: Mapped[str] = mapped_column(sql.String(2000))
    backbone: Mapped[str] = mapped_column(sql.String(200), index=True)
    backbone_fingerprint: Mapped[str] = mapped_column(sql.String(32))
    score: Mapped[float | None]
    validation: Mapped[float]
    parameters: Mapped[int]
    seconds: Mapped[float]
    seed: Mapped[int]
    num_images: Mapped[int]
    environment: Mapped[str] = mapped_column(sql.Text, server_default="")
    curve: Mapped[str] = mapped_column(sql.Text, server_default="[]")


class FactsRow(Base):
    """What one pass of a task's images through a backbone said, as JSON."""

    __tablename__ = "facts"
    __table_args__ = (sql.UniqueConstraint("task_id", "backbone_fingerprint"),)
    id: Mapped[int] = mapped_column(primary_key=True)
    task_id: Mapped[int] = mapped_column(sql.ForeignKey("tasks.id", ondelete="CASCADE"))
    backbone_fingerprint: Mapped[str] = mapped_column(sql.String(32))
    values: Mapped[str] = mapped_column(sql.Text)


def is_text(value: object, longest: int | None = None) -> bool:
    """Whether something is a text without control characters, which no name has and PostgreSQL partly refuses."""
    return isinstance(value, str) and not _CONTROL.search(value) and (longest is None or len(value) <= longest)


def new_identity() -> str:
    """What tells one store from all others."""
    return uuid.uuid4().hex


def checksum_of(fisher: bytes, tensors: bytes, facts: str) -> str:
    """What tells whether an embedding came back as it was stored."""
    digest = hashlib.sha256()
    for part in (fisher, tensors, facts.encode()):
        digest.update(len(part).to_bytes(8, "little") + part)
    return digest.hexdigest()


def _from_1_to_2(connection: sql.Connection) -> None:
    for table, column in (
        ("schema", "revision INTEGER DEFAULT 0 NOT NULL"),
        ("tasks", "tags TEXT DEFAULT '[]' NOT NULL"),
        ("tasks", "source TEXT DEFAULT '' NOT NULL"),
        ("embeddings", "fisher BLOB DEFAULT '' NOT NULL"),
        ("embeddings", "checksum VARCHAR(64) DEFAULT '' NOT NULL"),
        ("trials", "environment TEXT DEFAULT '' NOT NULL"),
    ):
        connection.execute(sql.text(f"ALTER TABLE {table} ADD COLUMN {column}"))
    stored = sql.table("embeddings", *(sql.column(c) for c in ("id", "tensors", "facts", "fisher", "checksum")))
    for row in connection.execute(sql.select(stored.c.id, stored.c.tensors, stored.c.facts)).all():
        parts = from_bytes(row.tensors)
        fisher = parts.pop("fisher").astype("<f4").tobytes()
        tensors = to_bytes(parts)
        new = {"fisher": fisher, "tensors": tensors, "checksum": checksum_of(fisher, tensors, row.facts)}
        connection.execute(sql.update(stored).where(stored.c.id == row.id).values(new))


def _from_2_to_3(connection: sql.Connection) -> None:
    for table, column in (
        ("schema", "removals INTEGER DEFAULT 0 NOT NULL"),
        ("schema", "identity VARCHAR(32) DEFAULT '' NOT NULL"),
        ("embeddings", "revision INTEGER DEFAULT 0 NOT NULL"),
    ):
        connection.execute(sql.text(f"ALTER TABLE {table} ADD COLUMN {column}"))
    # Whatever is there was written at the first change that an index can ask for.
    connection.execute(sql.text("UPDATE schema SET revision = revision + 1"))
    connection.execute(sql.text("UPDATE schema SET identity = :new"), {"new": new_identity()})
    connection.execute(sql.text("UPDATE embeddings SET revision = (SELECT revision FROM schema)"))
    for index in ("ix_embeddings_probe", "ix_embeddings_task_id", "ix_trials_task_id"):
        connection.execute(sql.text(f"DROP INDEX IF EXISTS {index}"))
    connection.execute(sql.text("CREATE INDEX ix_embeddings_written ON embeddings (probe, method, revision)"))


def _from_3_to_4(connection: sql.Connection) -> None:
    # Fingerprints stopped counting what depends on the size of the images; of the bundled backbone both are known.
    connection.execute(
        sql.text("UPDATE trials SET backbone_fingerprint = :new WHERE backbone_fingerprint = :old"),
        {"old": "a7bfaa686a2b2bb6aaaa3c6753005942", "new": "ce5f5636c564d3ce3645a9e619d000a9"},
    )
    _write_configs_out(connection)
    if connection.dialect.name == "sqlite":  # it cannot change a column, so the table is made again
        columns = (
            "id, task_id, config, backbone, backbone_fingerprint, score, validation, parameters, seconds, seed, "
            "num_images, environment"
        )
        for statement in (
            "ALTER TABLE trials RENAME TO trials_of_schema_3",
            "DROP INDEX IF EXISTS ix_trials_backbone",  # the new table's has the same name
            """CREATE TABLE trials (
                id INTEGER NOT NULL PRIMARY KEY,
                task_id INTEGER NOT NULL REFERENCES tasks (id) ON DELETE CASCADE,
                config VARCHAR(2000) NOT NULL, backbone VARCHAR(200) NOT NULL,
                backbone_fingerprint VARCHAR(32) NOT NULL, score FLOAT, validation FLOAT NOT NULL,
                parameters INTEGER NOT NULL, seconds FLOAT NOT NULL, seed INTEGER NOT NULL, num_images INTEGER NOT NULL,
                environment TEXT DEFAULT '' NOT NULL, curve TEXT DEFAULT '[]' NOT NULL,
                UNIQUE (task_id, backbone_fingerprint, config, seed, num_images))""",
            "CREATE INDEX ix_trials_backbone ON trials (backbone)",
            f"INSERT INTO trials ({columns}) SELECT {columns} FROM trials_of_schema_3",
            "DROP TABLE trials_of_schema_3",
        ):
            connection.execute(sql.text(statement))
    else:
        connection.execute(sql.text("ALTER TABLE trials ALTER COLUMN score DROP NOT NULL"))
        connection.execute(sql.text("ALTER TABLE trials ADD COLUMN curve TEXT DEFAULT '[]' NOT NULL"))


def _write_configs_out(connection: sql.Connection) -> None:
    """Say in every config what was done where there was no choice when it was stored."""
    stored = sql.table("trials", sql.column("id"), sql.column("config"))
    for row in connection.execute(sql.select(stored.c.id, stored.c.config)).all():
        config = json.dumps(config_of_version_0_1(json.loads(row.config)), sort_keys=True)
        if config != row.config:
            connection.execute(sql.update(stored).where(stored.c.id == row.id).values(config=config))


def _from_4_to_5(connection: sql.Connection) -> None:
    _write_configs_out(connection)
    Base.metadata.tables[FactsRow.__tablename__].create(connection)


# Each takes a database from the version that is its key to the next one. Schema 1 was only ever in SQLite.
MIGRATIONS: dict[int, Callable[[sql.Connection], None]] = {
    1: _from_1_to_2,
    2: _from_2_to_3,
    3: _from_3_to_4,
    4: _from_4_to_5,
}
