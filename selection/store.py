"""The task store: tasks, their embeddings and trials, and tuned adapters, in SQL.

SQLite by default, one file in write-ahead mode. Every call is one transaction: it happens whole or not at all.
"""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import sqlalchemy as sql
from safetensors import SafetensorError
from safetensors.numpy import load as from_bytes
from safetensors.numpy import save as to_bytes
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column, relationship
from sqlalchemy.pool import StaticPool

from adapters import AdapterError, read_metadata
from selection.errors import StoreError
from selection.trials import Trial
from task2vec import EmbeddingError, TaskEmbedding, distance_matrix, mean_log_embedding
from task2vec.distances.reference import shipped_reference
from task2vec.embedding import embedding_from, embedding_parts

SCHEMA_VERSION = 1


class Base(DeclarativeBase):
    """Parent of the tables."""


class SchemaRow(Base):
    """The version of the tables, in a single row."""

    __tablename__ = "schema"
    version: Mapped[int] = mapped_column(primary_key=True)


class TaskRow(Base):
    """A stored task."""

    __tablename__ = "tasks"
    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(sql.String(200), unique=True)
    num_images: Mapped[int]
    classes: Mapped[str] = mapped_column(sql.Text)
    adapter: Mapped[str | None] = mapped_column(sql.Text)
    embeddings: Mapped[list[EmbeddingRow]] = relationship(cascade="all, delete-orphan")
    trials: Mapped[list[TrialRow]] = relationship(cascade="all, delete-orphan", order_by="TrialRow.id")


class EmbeddingRow(Base):
    """The embedding of a task under one probe, by one estimator."""

    __tablename__ = "embeddings"
    __table_args__ = (sql.UniqueConstraint("task_id", "probe", "method"),)
    id: Mapped[int] = mapped_column(primary_key=True)
    task_id: Mapped[int] = mapped_column(sql.ForeignKey("tasks.id", ondelete="CASCADE"), index=True)
    probe: Mapped[str] = mapped_column(sql.String(32), index=True)
    method: Mapped[str] = mapped_column(sql.String(32))
    tensors: Mapped[bytes]
    facts: Mapped[str] = mapped_column(sql.Text)


class TrialRow(Base):
    """A trial of a task."""

    __tablename__ = "trials"
    __table_args__ = (sql.UniqueConstraint("task_id", "backbone_fingerprint", "config", "seed", "num_images"),)
    id: Mapped[int] = mapped_column(primary_key=True)
    task_id: Mapped[int] = mapped_column(sql.ForeignKey("tasks.id", ondelete="CASCADE"), index=True)
    config: Mapped[str] = mapped_column(sql.String(500))
    backbone: Mapped[str] = mapped_column(sql.String(200), index=True)
    backbone_fingerprint: Mapped[str] = mapped_column(sql.String(32))
    score: Mapped[float]
    validation: Mapped[float]
    parameters: Mapped[int]
    seconds: Mapped[float]
    seed: Mapped[int]
    num_images: Mapped[int]


@dataclasses.dataclass(frozen=True)
class StoredTask:
    """What the store knows of a task beside its embeddings.

    Attributes:
        name: Unique in the store.
        num_images: How many images its embedding was measured on.
        classes: Their class names.
        trials: What was tuned on it.
        adapter: Where its tuned adapter lies, if one was stored.
    """

    name: str
    num_images: int
    classes: tuple[str, ...]
    trials: tuple[Trial, ...]
    adapter: Path | None


@dataclasses.dataclass(frozen=True)
class Neighbour:
    """A stored task and its distance to the query."""

    name: str
    distance: float
    embedding: TaskEmbedding


class TaskStore:
    """Tasks with their embeddings, trials and adapters.

    Args:
        location: A file such as `tasks.db`, made if it is not there, or a SQLAlchemy URL; None keeps it in memory.

    Raises:
        StoreError: the place cannot be used, or holds something else than a store.
    """

    def __init__(self, location: str | Path | None = None) -> None:
        self.location = "memory" if location is None else str(location)
        self._files = _files_beside(location)
        try:
            self._engine = _engine(location)
            self._open_schema()
        except (SQLAlchemyError, OSError) as error:
            raise StoreError(
                f"{self.location} cannot be opened as a task store ({_cause(error)}); give a new file or a store"
            ) from error

    def __repr__(self) -> str:
        return f"TaskStore({self.location!r}, {len(self)} tasks)"

    def __len__(self) -> int:
        with self._session() as session:
            return int(session.scalar(sql.select(sql.func.count()).select_from(TaskRow)) or 0)

    def __contains__(self, name: object) -> bool:
        with self._session() as session:
            return session.scalar(sql.select(TaskRow.id).where(TaskRow.name == name)) is not None

    def add(
        self,
        embedding: TaskEmbedding,
        *,
        name: str | None = None,
        trials: Iterable[Trial] = (),
        adapter: str | Path | None = None,
    ) -> None:
        """Store a task, or add to a stored one: its embedding, more trials, its tuned adapter.

        An embedding of the same probe and estimator, and a trial of the same config, backbone, seed and number of
        images, replace what was there.

        Args:
            embedding: The task's embedding.
            name: What to call the task; the embedding's own name if not given.
            trials: What was tuned on it.
            adapter: A directory that `adapters.save` wrote; it is copied beside the store.

        Raises:
            StoreError: the name is empty or too long, the adapter is none, or the store cannot be written.
        """
        name = name or embedding.task
        if not 0 < len(name) <= 200:
            raise StoreError(f"a task's name must have 1 to 200 characters, not {len(name)}; give name=")
        kept = None if adapter is None else self._keep_adapter(Path(adapter), name)
        with self._session() as session:
            row = _get_task(session, name) or TaskRow(name=name)
            session.add(row)
            row.num_images, row.classes = embedding.num_samples, json.dumps(embedding.classes)
            if kept is not None:
                row.adapter = kept
            _put_embedding(row, embedding)
            for trial in trials:
                _put_trial(row, trial)

    def add_trials(self, name: str, trials: Iterable[Trial]) -> None:
        """Store more trials of a stored task.

        Raises:
            StoreError: there is no such task.
        """
        with self._session() as session:
            row = self._existing(session, name)
            for trial in trials:
                _put_trial(row, trial)

    def remove(self, name: str) -> None:
        """Forget a task with its embeddings and trials.

        Raises:
            StoreError: there is no such task.
        """
        with self._session() as session:
            session.delete(self._existing(session, name))

    def names(self) -> list[str]:
        """Names of all tasks, in alphabetical order."""
        with self._session() as session:
            return list(session.scalars(sql.select(TaskRow.name).order_by(TaskRow.name)))

    def task(self, name: str) -> StoredTask:
        """What is known of a task.

        Raises:
            StoreError: there is no such task.
        """
        with self._session() as session:
            row = self._existing(session, name)
            trials = tuple(_trial(t) for t in row.trials)
            adapter = None if row.adapter is None else Path(row.adapter)
            return StoredTask(row.name, row.num_images, tuple(json.loads(row.classes)), trials, adapter)

    def embeddings(self, probe: str, method: str | None = None) -> list[TaskEmbedding]:
        """All embeddings under a probe (its fingerprint), by the task's name; `task` holds the stored name."""
        query = sql.select(EmbeddingRow, TaskRow.name).join(TaskRow).where(EmbeddingRow.probe == probe)
        if method is not None:
            query = query.where(EmbeddingRow.method == method)
        with self._session() as session:
            rows = session.execute(query.order_by(TaskRow.name, EmbeddingRow.method)).all()
            return [_embedding(row, name) for row, name in rows]

    def nearest(
        self, embedding: TaskEmbedding, k: int = 5, *, distance: str = "log_cosine", exclude: Sequence[str] = ()
    ) -> list[Neighbour]:
        """The k stored tasks that are nearest to a task, nearest first.

        Args:
            embedding: The target. Only tasks embedded by the same probe and estimator are compared.
            k: How many.
            distance: Any of `task2vec.DISTANCES`; for `asymmetric`, from the stored task to the target.
            exclude: Names of tasks to leave out.

        Raises:
            StoreError: no stored task was embedded by the same probe and estimator.
        """
        stored = self.embeddings(embedding.probe, embedding.method)
        candidates = [e for e in stored if e.task not in exclude]
        if not candidates:
            raise StoreError(
                f"{self.location} has no task embedded with probe {embedding.probe_name} ({embedding.probe[:8]}) "
                f"and method {embedding.method}; embed its tasks with that probe and add them"
            )
        reference = shipped_reference(embedding.probe)
        if reference is None:
            reference = mean_log_embedding([*stored, embedding])
        distances = distance_matrix(candidates, distance, [embedding], reference=reference)[:, 0]
        order = np.argsort(distances, kind="stable")[:k]
        return [Neighbour(candidates[i].task, float(distances[i]), candidates[i]) for i in order]

    def _open_schema(self) -> None:
        tables = set(sql.inspect(self._engine).get_table_names())
        if tables and SchemaRow.__tablename__ not in tables:
            raise StoreError(f"{self.location} is a database but not a task store; give a new file or a store")
        Base.metadata.create_all(self._engine)
        with self._session() as session:
            version = session.scalar(sql.select(SchemaRow.version))
            if version is None:
                session.add(SchemaRow(version=SCHEMA_VERSION))
            elif version != SCHEMA_VERSION:
                raise StoreError(
                    f"{self.location} has schema version {version}, this package knows {SCHEMA_VERSION}; upgrade it"
                )

    @contextmanager
    def _session(self) -> Iterator[Session]:
        try:
            with Session(self._engine) as session, session.begin():
                yield session
        except SQLAlchemyError as error:
            raise StoreError(
                f"{self.location} could not be read or written ({_cause(error)}); nothing was changed"
            ) from error

    def _existing(self, session: Session, name: str) -> TaskRow:
        row = _get_task(session, name)
        if row is None:
            known = ", ".join(session.scalars(sql.select(TaskRow.name).order_by(TaskRow.name).limit(5))) or "none"
            raise StoreError(f"{self.location} has no task {name!r}; it has {known}")
        return row

    def _keep_adapter(self, source: Path, name: str) -> str:
        try:
            read_metadata(source)
        except AdapterError as error:
            raise StoreError(f"{source} is not a saved adapter ({error})") from error
        if self._files is None:
            return str(source.resolve())
        safe = "".join(c if c.isalnum() or c in "-_." else "_" for c in name)
        target = self._files / safe
        temporary = target.with_name(target.name + ".partial")
        shutil.rmtree(temporary, ignore_errors=True)
        shutil.copytree(source, temporary, ignore=shutil.ignore_patterns("training.pt", "*.partial"))
        shutil.rmtree(target, ignore_errors=True)
        temporary.rename(target)
        return str(target.resolve())


def _engine(location: str | Path | None) -> sql.Engine:
    if location is None:
        return sql.create_engine("sqlite://", poolclass=StaticPool, connect_args={"check_same_thread": False})
    if "://" in str(location):
        return sql.create_engine(str(location))
    path = Path(location)
    path.parent.mkdir(parents=True, exist_ok=True)
    engine = sql.create_engine(f"sqlite:///{path}", connect_args={"timeout": 30})
    sql.event.listen(engine, "connect", _configure_sqlite)
    return engine


def _configure_sqlite(connection: Any, _: object) -> None:
    cursor = connection.cursor()
    cursor.execute("PRAGMA journal_mode=WAL")
    cursor.execute("PRAGMA foreign_keys=ON")
    cursor.close()


def _files_beside(location: str | Path | None) -> Path | None:
    if location is None or "://" in str(location):
        return None
    return Path(f"{location}.adapters")


def _cause(error: Exception) -> str:
    return str(getattr(error, "orig", None) or error).splitlines()[0]


def _get_task(session: Session, name: str) -> TaskRow | None:
    return session.scalar(sql.select(TaskRow).where(TaskRow.name == name))


def _put_embedding(row: TaskRow, embedding: TaskEmbedding) -> None:
    tensors, facts = embedding_parts(embedding)
    found = next((e for e in row.embeddings if (e.probe, e.method) == (embedding.probe, embedding.method)), None)
    if found is None:
        found = EmbeddingRow(probe=embedding.probe, method=embedding.method)
        row.embeddings.append(found)
    found.tensors, found.facts = to_bytes(tensors), json.dumps(facts)


def _embedding(row: EmbeddingRow, name: str) -> TaskEmbedding:
    try:
        embedding = embedding_from(from_bytes(row.tensors), json.loads(row.facts), f"the embedding of {name!r}")
    except (SafetensorError, ValueError, EmbeddingError) as error:
        raise StoreError(f"the stored embedding of {name!r} is damaged ({error}); embed the task again") from error
    return dataclasses.replace(embedding, task=name)


def _put_trial(row: TaskRow, trial: Trial) -> None:
    values = trial.to_dict() | {"config": json.dumps(trial.config.to_dict(), sort_keys=True)}
    key = ("backbone_fingerprint", "config", "seed", "num_images")
    found = next((t for t in row.trials if all(getattr(t, k) == values[k] for k in key)), None)
    if found is None:
        row.trials.append(TrialRow(**values))
    else:
        for field, value in values.items():
            setattr(found, field, value)


def _trial(row: TrialRow) -> Trial:
    values = {f.name: getattr(row, f.name) for f in dataclasses.fields(Trial)}
    return Trial.from_dict(values | {"config": json.loads(row.config)})
