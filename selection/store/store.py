"""The task store: tasks, their embeddings and trials, and tuned adapters, in SQL.

SQLite by default, one file in write-ahead mode; PostgreSQL by URL. Every call is one transaction: it happens whole or
not at all, and what it wrote when it returns stays.
"""

from __future__ import annotations

import dataclasses
import json
import random
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TypeVar

import numpy as np
import numpy.typing as npt
import sqlalchemy as sql
from safetensors import SafetensorError
from safetensors.numpy import load as from_bytes
from safetensors.numpy import save as to_bytes
from sqlalchemy.exc import IntegrityError, SQLAlchemyError
from sqlalchemy.orm import Session

from selection.errors import StoreError
from selection.store.engine import ALONE, WRITES, is_lost, lock_for_opening, open_engine
from selection.store.files import AdapterFiles
from selection.store.schema import (
    MIGRATIONS,
    NAME_LENGTH,
    SCHEMA_VERSION,
    Base,
    EmbeddingRow,
    SchemaRow,
    TaskRow,
    TrialRow,
    checksum_of,
)
from selection.trials import Trial
from task2vec import EmbeddingError, TaskEmbedding, distance_matrix, mean_log_embedding
from task2vec.distances.reference import shipped_reference
from task2vec.embedding import embedding_from, embedding_parts

TRIES = 10  # of a transaction that collided with another one
BULK = 1000  # embeddings in one transaction of `add_many`

Result = TypeVar("Result")


@dataclasses.dataclass(frozen=True)
class StoredTask:
    """What the store knows of a task beside its embeddings.

    Attributes:
        name: Unique in the store.
        num_images: How many images its embedding was measured on.
        classes: Their class names.
        trials: What was tuned on it.
        adapter: Where its tuned adapter lies, if one was stored.
        tags: Words to find it by.
        source: Where its images come from.
    """

    name: str
    num_images: int
    classes: tuple[str, ...]
    trials: tuple[Trial, ...]
    adapter: Path | None
    tags: tuple[str, ...] = ()
    source: str = ""


@dataclasses.dataclass(frozen=True)
class Neighbour:
    """A stored task and its distance to the query."""

    name: str
    distance: float
    embedding: TaskEmbedding


@dataclasses.dataclass(frozen=True)
class _Vectors:
    """All Fishers of one probe and estimator, as of one revision of the store."""

    revision: int
    ids: list[int]
    names: list[str]
    fisher: npt.NDArray[np.float32]


class TaskStore:
    """Tasks with their embeddings, trials and adapters.

    Args:
        location: A file such as `tasks.db`, made if it is not there, or a SQLAlchemy URL; None keeps it in memory.
        files: Directory for adapters; beside the file if not given, and needed for adapters in a database by URL.

    Raises:
        StoreError: the place cannot be used, or holds something else than a store.
    """

    def __init__(self, location: str | Path | None = None, *, files: str | Path | None = None) -> None:
        self.location = "memory" if location is None else str(location)
        if files is None and location is not None and "://" not in str(location):
            files = f"{location}.adapters"
        self._files = None if files is None else AdapterFiles(Path(files))
        self._vectors: dict[tuple[str, str], _Vectors] = {}
        try:
            self._engine = open_engine(location)
            self._writing = self._engine.execution_options(**{WRITES: True})
            self._open_schema()
        except (SQLAlchemyError, OSError) as error:
            raise StoreError(
                f"{self.location} cannot be opened as a task store ({_cause(error)}); give a new file or a store"
            ) from error

    def __repr__(self) -> str:
        return f"TaskStore({self.location!r}, {len(self)} tasks)"

    def __len__(self) -> int:
        with self._reading() as session:
            return int(session.scalar(sql.select(sql.func.count()).select_from(TaskRow)) or 0)

    def __contains__(self, name: object) -> bool:
        with self._reading() as session:
            return session.scalar(sql.select(TaskRow.id).where(TaskRow.name == name)) is not None

    def add(
        self,
        embedding: TaskEmbedding,
        *,
        name: str | None = None,
        trials: Iterable[Trial] = (),
        adapter: str | Path | None = None,
        tags: Iterable[str] = (),
        source: str = "",
    ) -> None:
        """Store a task, or add to a stored one: its embedding, more trials, its tuned adapter.

        An embedding of the same probe and estimator, and a trial of the same config, backbone, seed and number of
        images, replace what was there.

        Args:
            embedding: The task's embedding.
            name: What to call the task; the embedding's own name if not given.
            trials: What was tuned on it.
            adapter: A directory that `adapters.save` wrote; it is copied to the store's files.
            tags: Words to find it by, beside those it has.
            source: Where its images come from; what is known stays if not given.

        Raises:
            StoreError: the name is empty or too long, the adapter is none, or the store cannot be written.
        """
        name = _checked(name or embedding.task)
        kept, new_trials, new_tags = self._keep(adapter), list(trials), list(tags)

        def change(session: Session) -> None:
            row = _get_task(session, name)
            if row is None:
                row = TaskRow(name=name, tags="[]", source="")
                session.add(row)
            row.num_images, row.classes = embedding.num_samples, json.dumps(embedding.classes)
            row.tags = json.dumps(sorted({*json.loads(row.tags), *new_tags}))
            row.source = source or row.source
            row.adapter = kept or row.adapter
            _put_embedding(row, embedding)
            for trial in new_trials:
                _put_trial(row, trial)

        self._write(change)

    def add_many(self, embeddings: Iterable[TaskEmbedding]) -> None:
        """Store many tasks by their embeddings' names, thousands a second; each thousand is one transaction.

        Raises:
            StoreError: a name is empty or too long, or the store cannot be written.
        """
        rest = iter(embeddings)
        while some := list(islice(rest, BULK)):
            self._write(partial(_put_many, {_checked(embedding.task): embedding for embedding in some}))

    def add_trials(self, name: str, trials: Iterable[Trial]) -> None:
        """Store more trials of a stored task.

        Raises:
            StoreError: there is no such task.
        """
        new = list(trials)

        def change(session: Session) -> None:
            row = self._existing(session, name)
            for trial in new:
                _put_trial(row, trial)

        self._write(change)

    def remove(self, name: str) -> None:
        """Forget a task with its embeddings and trials; its adapter's files go with the next `vacuum`.

        Raises:
            StoreError: there is no such task.
        """
        self._write(lambda session: session.delete(self._existing(session, name)))

    def names(self) -> list[str]:
        """Names of all tasks, in alphabetical order."""
        with self._reading() as session:
            return list(session.scalars(sql.select(TaskRow.name).order_by(TaskRow.name)))

    def task(self, name: str) -> StoredTask:
        """What is known of a task.

        Raises:
            StoreError: there is no such task.
        """
        with self._reading() as session:
            return self._stored(self._existing(session, name))

    def tasks(self) -> Iterator[StoredTask]:
        """All tasks, in alphabetical order of their names."""
        for name in self.names():
            yield self.task(name)

    def embeddings(
        self, probe: str | None = None, method: str | None = None, *, name: str | None = None
    ) -> list[TaskEmbedding]:
        """Embeddings under a probe (its fingerprint), by one estimator, of one task, or all, by the task's name.

        Their `task` is the stored name.

        Raises:
            StoreError: one of them is damaged.
        """
        query = sql.select(EmbeddingRow, TaskRow.name).join(TaskRow)
        for column, value in ((EmbeddingRow.probe, probe), (EmbeddingRow.method, method), (TaskRow.name, name)):
            if value is not None:
                query = query.where(column == value)
        with self._reading() as session:
            rows = session.execute(query.order_by(TaskRow.name, EmbeddingRow.probe, EmbeddingRow.method)).all()
            return [_embedding(row, stored_name) for row, stored_name in rows]

    def nearest(
        self,
        embedding: TaskEmbedding,
        k: int = 5,
        *,
        distance: str = "log_cosine",
        where: Callable[[StoredTask], bool] | None = None,
        exclude: Sequence[str] = (),
    ) -> list[Neighbour]:
        """The k stored tasks that are nearest to a task, nearest first.

        Args:
            embedding: The target. Only tasks embedded by the same probe and estimator are compared.
            k: How many.
            distance: Any of `task2vec.DISTANCES`; for `asymmetric`, from the stored task to the target.
            where: Which tasks count, such as `lambda task: "medical" in task.tags`. It is asked from the nearest task
                on until k are found.
            exclude: Names of tasks to leave out.

        Raises:
            StoreError: no stored task was embedded by the same probe and estimator.
        """
        vectors = self._vectors_of(embedding.probe, embedding.method)
        if not set(vectors.names) - set(exclude):
            raise StoreError(
                f"{self.location} has no task embedded with probe {embedding.probe_name} ({embedding.probe[:8]}) "
                f"and method {embedding.method}; embed its tasks with that probe and add them"
            )
        reference = shipped_reference(embedding.probe)
        if reference is None and distance == "log_cosine":
            reference = mean_log_embedding(np.vstack([vectors.fisher, embedding.fisher]))
        distances = self._distances(vectors, embedding, distance, reference)
        found: list[Neighbour] = []
        for i in np.argsort(distances, kind="stable"):
            if len(found) == k:
                break
            name = vectors.names[i]
            if name not in exclude and (where is None or where(self.task(name))):
                found.append(Neighbour(name, float(distances[i]), self._embedding_by_id(vectors.ids[i], name)))
        return found

    def verify(self) -> list[str]:
        """Everything that is wrong with what is stored, a sentence each; empty if nothing."""
        problems: list[str] = []
        try:
            self._verify_into(problems)
        except StoreError as error:  # so damaged that the database itself gave up
            problems.append(str(error))
        return problems

    def _verify_into(self, problems: list[str]) -> None:
        with self._reading() as session:
            if session.get_bind().dialect.name == "sqlite":
                found = session.execute(sql.text("PRAGMA integrity_check")).scalars().all()
                problems += [f"the database file is damaged: {line}" for line in found if line != "ok"]
            for row, name in session.execute(sql.select(EmbeddingRow, TaskRow.name).join(TaskRow)).yield_per(BULK):
                try:
                    _embedding(row, name)
                except StoreError as error:
                    problems.append(str(error))
            for trial, name in session.execute(sql.select(TrialRow, TaskRow.name).join(TaskRow)).yield_per(BULK):
                try:
                    _trial(trial)
                except ValueError as error:
                    problems.append(f"trial {trial.id} of {name!r} is damaged ({error}); remove it and run it again")
            adapters = sql.select(TaskRow.name, TaskRow.adapter).where(TaskRow.adapter.is_not(None))
            for name, digest in session.execute(adapters):
                problem = "has no directory" if self._files is None else self._files.problem(str(digest))
                if problem:
                    problems.append(f"the adapter of {name!r} {problem}; add it again")

    def vacuum(self) -> int:
        """Give unused space back, and remove adapters that no task has; gives how many were removed.

        Adapters of the last hour stay: their writer may not have finished.
        """
        with self._reading() as session:
            used = set(session.scalars(sql.select(TaskRow.adapter).where(TaskRow.adapter.is_not(None))))
        try:
            level = {} if self._engine.dialect.name == "sqlite" else {"isolation_level": "AUTOCOMMIT"}
            with self._engine.connect().execution_options(**{ALONE: True}, **level) as connection:
                connection.exec_driver_sql("VACUUM")
        except SQLAlchemyError as error:
            raise StoreError(f"{self.location} could not be compacted ({_cause(error)}); nothing was lost") from error
        return 0 if self._files is None else self._files.sweep({digest for digest in used if digest is not None})

    def _open_schema(self) -> None:
        with self._writing.begin() as connection:
            lock_for_opening(connection)
            tables = set(sql.inspect(connection).get_table_names())
            if tables and SchemaRow.__tablename__ not in tables:
                raise StoreError(f"{self.location} is a database but not a task store; give a new file or a store")
            if not tables:
                Base.metadata.create_all(connection)
                connection.execute(sql.insert(SchemaRow).values(version=SCHEMA_VERSION))
                return
            version = connection.scalar(sql.select(SchemaRow.version))
            if version is None or version > SCHEMA_VERSION:
                raise StoreError(
                    f"{self.location} has schema version {version}, this package knows {SCHEMA_VERSION}; upgrade it"
                )
            for old in range(version, SCHEMA_VERSION):
                MIGRATIONS[old](connection)
                connection.execute(sql.update(SchemaRow).values(version=old + 1))

    def close(self) -> None:
        """Let go of all connections; the store opens new ones when it is used again."""
        self._engine.dispose()

    @contextmanager
    def _reading(self) -> Iterator[Session]:
        try:
            with Session(self._engine) as session, session.begin():
                yield session
        except SQLAlchemyError as error:
            raise StoreError(f"{self.location} could not be read ({_cause(error)}); try again") from error

    def _write(self, change: Callable[[Session], Result]) -> Result:
        """Do `change` in a transaction; again, where another process wrote the same or the connection broke."""
        for attempt in range(1, TRIES + 1):
            try:
                with Session(self._writing) as session, session.begin():
                    result = change(session)
                    session.execute(sql.update(SchemaRow).values(revision=SchemaRow.revision + 1))
                return result
            except SQLAlchemyError as error:
                if attempt < TRIES and (isinstance(error, IntegrityError) or is_lost(error)):
                    time.sleep(random.uniform(0, 0.02 * attempt))
                    continue
                raise StoreError(
                    f"{self.location} could not be written ({_cause(error)}); nothing was changed"
                ) from error
        raise AssertionError  # the last attempt returns or raises

    def _existing(self, session: Session, name: str) -> TaskRow:
        row = _get_task(session, name)
        if row is None:
            known = ", ".join(session.scalars(sql.select(TaskRow.name).order_by(TaskRow.name).limit(5))) or "none"
            raise StoreError(f"{self.location} has no task {name!r}; it has {known}")
        return row

    def _stored(self, row: TaskRow) -> StoredTask:
        adapter = None if row.adapter is None or self._files is None else self._files.path(row.adapter)
        trials = tuple(_trial(trial) for trial in row.trials)
        classes, tags = tuple(json.loads(row.classes)), tuple(json.loads(row.tags))
        return StoredTask(row.name, row.num_images, classes, trials, adapter, tags, row.source)

    def _keep(self, adapter: str | Path | None) -> str | None:
        if adapter is None:
            return None
        if self._files is None:
            raise StoreError(f"{self.location} has no directory for adapters; open it with files=")
        return self._files.keep(Path(adapter))

    def _vectors_of(self, probe: str, method: str) -> _Vectors:
        """All Fishers of a probe and estimator, kept in memory until the store changes."""
        with self._reading() as session:
            revision = int(session.scalar(sql.select(SchemaRow.revision)) or 0)
            known = self._vectors.get((probe, method))
            if known is not None and known.revision == revision:
                return known
            query = (
                sql.select(EmbeddingRow.id, TaskRow.name, EmbeddingRow.fisher)
                .join(TaskRow)
                .where(EmbeddingRow.probe == probe, EmbeddingRow.method == method)
                .order_by(TaskRow.name)
            )
            rows = session.execute(query).all()
        lengths = {len(row.fisher) for row in rows}
        if len(lengths) > 1:
            odd = next(row.name for row in rows if len(row.fisher) != max(lengths))
            raise StoreError(f"the stored embedding of {odd!r} is damaged (its length); embed the task again")
        fisher = np.frombuffer(b"".join(row.fisher for row in rows), "<f4").reshape(len(rows), -1 if rows else 0)
        vectors = _Vectors(revision, [row.id for row in rows], [row.name for row in rows], fisher)
        self._vectors[probe, method] = vectors
        return vectors

    def _distances(
        self, vectors: _Vectors, embedding: TaskEmbedding, distance: str, reference: npt.ArrayLike | None
    ) -> npt.NDArray[np.float64]:
        """From each stored task to the target, `(n,)`."""
        if embedding.trivial is not None:  # the trivial task differs from one embedding to the next
            stored = [self._embedding_by_id(i, name) for i, name in zip(vectors.ids, vectors.names, strict=True)]
            return distance_matrix(stored, distance, [embedding], reference=reference)[:, 0]
        try:
            return distance_matrix(vectors.fisher, distance, embedding.fisher[None], reference=reference)[:, 0]
        except EmbeddingError as error:
            raise StoreError(
                f"{self.location} holds a damaged embedding ({error}); run task2vec store verify"
            ) from error

    def _embedding_by_id(self, number: int, name: str) -> TaskEmbedding:
        with self._reading() as session:
            row = session.get(EmbeddingRow, number)
            if row is None:
                raise StoreError(f"the embedding of {name!r} was removed in the meantime; ask again")
            return _embedding(row, name)


def _checked(name: str) -> str:
    if not 0 < len(name) <= NAME_LENGTH:
        raise StoreError(f"a task's name must have 1 to {NAME_LENGTH} characters, not {len(name)}; give name=")
    return name


def _cause(error: Exception) -> str:
    return str(getattr(error, "orig", None) or error).splitlines()[0]


def _get_task(session: Session, name: str) -> TaskRow | None:
    return session.scalar(sql.select(TaskRow).where(TaskRow.name == name))


def _columns(embedding: TaskEmbedding) -> dict[str, str | bytes]:
    parts, facts = embedding_parts(embedding)
    fisher = parts.pop("fisher").astype("<f4").tobytes()
    tensors, text = to_bytes(parts), json.dumps(facts)
    checksum = checksum_of(fisher, tensors, text)
    return {"fisher": fisher, "tensors": tensors, "facts": text, "checksum": checksum}


def _put_embedding(row: TaskRow, embedding: TaskEmbedding) -> None:
    found = next((e for e in row.embeddings if (e.probe, e.method) == (embedding.probe, embedding.method)), None)
    if found is None:
        found = EmbeddingRow(probe=embedding.probe, method=embedding.method)
        row.embeddings.append(found)
    for column, value in _columns(embedding).items():
        setattr(found, column, value)


def _put_many(named: dict[str, TaskEmbedding], session: Session) -> None:
    """Insert the tasks that are new in two statements; the others as `add` would."""
    present = set(session.scalars(sql.select(TaskRow.name).where(TaskRow.name.in_(named))))
    new = {name: embedding for name, embedding in named.items() if name not in present}
    if new:
        rows = [{"name": n, "num_images": e.num_samples, "classes": json.dumps(e.classes)} for n, e in new.items()]
        insert = sql.insert(TaskRow).returning(TaskRow.id, sort_by_parameter_order=True)
        ids = session.scalars(insert, rows).all()
        session.execute(
            sql.insert(EmbeddingRow),
            [
                {"task_id": i, "probe": e.probe, "method": e.method, **_columns(e)}
                for i, e in zip(ids, new.values(), strict=True)
            ],
        )
    for name in present:
        row = _get_task(session, name)
        assert row is not None
        row.num_images, row.classes = named[name].num_samples, json.dumps(named[name].classes)
        _put_embedding(row, named[name])


def _embedding(row: EmbeddingRow, name: str) -> TaskEmbedding:
    try:
        if checksum_of(row.fisher, row.tensors, row.facts) != row.checksum:
            raise ValueError("its checksum differs")
        tensors = from_bytes(row.tensors) | {"fisher": np.frombuffer(row.fisher, "<f4")}
        embedding = embedding_from(tensors, json.loads(row.facts), f"the embedding of {name!r}")
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
