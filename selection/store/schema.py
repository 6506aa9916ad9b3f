"""The store's tables. How a database of an older schema becomes one of this stands in `migrations/`.

Schema 1 kept all tensors of an embedding in one blob. Schema 2 keeps the Fisher by itself, so that searching reads
nothing else, knows tags and sources of tasks, what trials were run with, and a checksum of every embedding, and names
adapters by their content. Schema 3 knows at which change an embedding was written, so that a search index can catch
up, and who it is, so that the index of another store is not mistaken for its own. Schema 4 has trials whose test score
was not measured, and the learning curve of each. Schema 5 knows what a task looks like to the backbones that were
tuned on it. Schema 6 has small pictures of a task's images, where somebody asked for them. Schema 7 tells configs of
trials apart by their digests, so that a config may be of any length. Schema 8 keeps seeds and parameters of 64 bits.
"""

from __future__ import annotations

import hashlib
import re
import uuid

import sqlalchemy as sql
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, relationship

SCHEMA_VERSION = 8

_CONTROL = re.compile(r"[\x00-\x1f\x7f\ud800-\udfff]")  # and halves of characters, which no database takes

BYTES = 4  # of one filter in a stored Fisher
NAME_LENGTH = 200  # the most characters that the name of a task, an estimator or a backbone may have
# What tells one trial from another: a config by its digest, since PostgreSQL's indexes take no text of any length.
TRIAL_KEY = ("task_id", "backbone_fingerprint", "config_digest", "seed", "num_images")

_LARGE = sql.BigInteger().with_variant(sql.Integer, "sqlite")  # whose integers are of 64 bits


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
    thumbnails: Mapped[list[ThumbnailRow]] = relationship(cascade="all, delete-orphan", order_by="ThumbnailRow.id")


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
    method: Mapped[str] = mapped_column(sql.String(NAME_LENGTH))
    tensors: Mapped[bytes]
    facts: Mapped[str] = mapped_column(sql.Text)
    fisher: Mapped[bytes] = mapped_column(sql.LargeBinary, server_default="")
    checksum: Mapped[str] = mapped_column(sql.String(64), server_default="")
    revision: Mapped[int] = mapped_column(server_default="0")


class TrialRow(Base):
    """A trial of a task."""

    __tablename__ = "trials"
    __table_args__ = (sql.UniqueConstraint(*TRIAL_KEY, name="uq_trials"),)
    id: Mapped[int] = mapped_column(primary_key=True)
    task_id: Mapped[int] = mapped_column(sql.ForeignKey("tasks.id", ondelete="CASCADE"))
    config: Mapped[str] = mapped_column(sql.Text)
    config_digest: Mapped[str] = mapped_column(sql.String(64))
    backbone: Mapped[str] = mapped_column(sql.String(NAME_LENGTH), index=True)
    backbone_fingerprint: Mapped[str] = mapped_column(sql.String(32))
    score: Mapped[float | None]
    validation: Mapped[float]
    parameters: Mapped[int] = mapped_column(_LARGE)
    seconds: Mapped[float]
    seed: Mapped[int] = mapped_column(_LARGE)
    num_images: Mapped[int] = mapped_column(_LARGE)
    environment: Mapped[str] = mapped_column(sql.Text, server_default="")
    curve: Mapped[str] = mapped_column(sql.Text, server_default="[]")


class FactsRow(Base):
    """What one pass of a task's images through a backbone said, as JSON."""

    __tablename__ = "facts"
    __table_args__ = (sql.UniqueConstraint("task_id", "backbone_fingerprint"),)
    id: Mapped[int] = mapped_column(primary_key=True)
    task_id: Mapped[int] = mapped_column(sql.ForeignKey("tasks.id", ondelete="CASCADE"))
    backbone_fingerprint: Mapped[str] = mapped_column(sql.String(32))
    content: Mapped[str] = mapped_column(sql.Text)


class ThumbnailRow(Base):
    """A small picture of one of a task's images, a WebP file."""

    __tablename__ = "thumbnails"
    id: Mapped[int] = mapped_column(primary_key=True)
    task_id: Mapped[int] = mapped_column(sql.ForeignKey("tasks.id", ondelete="CASCADE"), index=True)
    label: Mapped[str] = mapped_column(sql.Text)
    webp: Mapped[bytes]


def is_text(value: object, longest: int | None = None) -> bool:
    """Whether something is a text without control characters, which no name has and databases partly refuse."""
    return isinstance(value, str) and not _CONTROL.search(value) and (longest is None or len(value) <= longest)


def plain(text: str) -> str:
    """A text with spaces for control characters, which stores of earlier versions may hold in tags and sources."""
    return _CONTROL.sub(" ", text)


def new_identity() -> str:
    """What tells one store from all others."""
    return uuid.uuid4().hex


def config_digest_of(config: str) -> str:
    """What tells the config of a trial, as it is stored, from all others: 64 hexadecimal digits."""
    return hashlib.sha256(config.encode()).hexdigest()


def checksum_of(fisher: bytes, tensors: bytes, facts: str) -> str:
    """What tells whether an embedding came back as it was stored."""
    digest = hashlib.sha256()
    for part in (fisher, tensors, facts.encode()):
        digest.update(len(part).to_bytes(8, "little") + part)
    return digest.hexdigest()
