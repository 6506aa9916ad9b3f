"""The task store: tasks, their embeddings and trials, and tuned adapters, in SQL.

SQLite by default, one file in write-ahead mode; PostgreSQL by URL. Every call is one transaction: it happens whole or
not at all, and what it wrote when it returns stays. A server that goes away while a store is open is waited for.
"""

from __future__ import annotations

import dataclasses
import json
import random
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import chain, islice
from numbers import Integral
from pathlib import Path
from typing import Any, TypeVar

import sqlalchemy as sql
from sqlalchemy.exc import IntegrityError, SQLAlchemyError
from sqlalchemy.orm import Session, selectinload

from adapters import BackboneId
from selection.errors import StoreError
from selection.store.engine import ALONE, WRITES, connected, is_lost, lock_for_opening, open_engine
from selection.store.facts import BackboneFacts
from selection.store.files import AdapterFiles
from selection.store.filter import ALL, TaskFilter
from selection.store.migrations import upgrade
from selection.store.rows import (
    REVISION,
    describe,
    describe_again,
    get_task,
    long_name,
    put_embedding,
    put_facts,
    put_many,
    put_thumbnails,
    put_trials,
    refuse_other_classes,
    refuse_other_layers,
    to_embedding,
    to_facts,
    to_thumbnails,
    to_trial,
    words_of,
)
from selection.store.schema import (
    NAME_LENGTH,
    SCHEMA_VERSION,
    Base,
    EmbeddingRow,
    SchemaRow,
    TaskRow,
    ThumbnailRow,
    TrialRow,
    is_text,
    new_identity,
)
from selection.store.search import Search
from selection.store.trial import Trial
from selection.store.verify import problems
from task2vec import TaskEmbedding, Thumbnail

TRIES = 10  # of a transaction that collided with another one
EXACT_UP_TO = 50_000  # embeddings of one probe
BULK = 1000  # tasks that are written or read at once
BESIDE = ("", "-wal", "-shm", "-journal")  # endings of a SQLite database and the files that belong to it
LARGEST_K = 2**31  # tasks asked for, more than any store has

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
        facts: What it looks like to backbones.
    """

    name: str
    num_images: int
    classes: tuple[str, ...]
    trials: tuple[Trial, ...]
    adapter: Path | None
    tags: tuple[str, ...] = ()
    source: str = ""
    facts: tuple[BackboneFacts, ...] = ()


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
        files: Directory for adapters; beside the file if not given, and needed for adapters in a database by URL.
        index: Directory for the search index of a large store; beside the file if not given. It can be removed at any
            time. For a database by URL it is kept in memory if not given.
        exact_up_to: With more embeddings of one probe than this, `nearest` searches a sketch of them first.
        called: What messages call it; its location if not given.

    Raises:
        StoreError: the place cannot be used, or holds something else than a store.
    """

    def __init__(
        self,
        location: str | Path | None = None,
        *,
        files: str | Path | None = None,
        index: str | Path | None = None,
        exact_up_to: int = EXACT_UP_TO,
        called: str | None = None,
    ) -> None:
        self.location = called or ("memory" if location is None else str(location))
        self._given = (location, files, index, exact_up_to, called)
        if location is not None and "://" not in str(location):
            files = f"{location}.adapters" if files is None else files
            index = f"{location}.index" if index is None else index
        self._files = None if files is None else AdapterFiles(Path(files))
        self._index = None if index is None else Path(index)
        self._search = Search(self.location, self._reading, exact_up_to, self._index)
        try:
            self._engine = open_engine(location)
            self._writing = self._engine.execution_options(**{WRITES: True})
            self._open_schema()
        except (SQLAlchemyError, OSError) as error:
            raise StoreError(
                f"{self.location} cannot be opened as a task store ({_cause(error)}); give a new file or a store"
            ) from error

    def __deepcopy__(self, _: object) -> TaskStore:
        """The store itself: copies of an object that holds one, such as scikit-learn's clones, share it."""
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        """For another process, which opens the same place.

        Raises:
            StoreError: it lies in this one's memory.
        """
        location, files, index, exact_up_to, called = self._given
        if location is None:
            raise StoreError(f"{self.location} lies in the memory of this process alone; give others one in a file")
        return partial(TaskStore, files=files, index=index, exact_up_to=exact_up_to, called=called), (location,)

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
        facts: Iterable[BackboneFacts] = (),
    ) -> None:
        """Store a task, or add to a stored one: its embedding with its thumbnails, more trials, its tuned adapter.

        An embedding of the same probe and estimator, and a trial of the same config, backbone, seed and number of
        images, replace what was there.

        Args:
            embedding: The task's embedding.
            name: What to call the task; the embedding's own name if not given.
            trials: What was tuned on it.
            adapter: A directory that `adapters.save` wrote; it is copied to the store's files.
            tags: Words to find it by, beside those it has.
            source: Where its images come from; what is known stays if not given.
            facts: What it looks like to backbones; those under the same backbone are replaced.

        Raises:
            StoreError: the name is empty, too long, or that of a stored task of other classes; the embedding is of
                other layers than those of the other tasks by its probe and estimator; an estimator's or a backbone's
                name is too long; a tag or the source is no text; the adapter is none; or the store cannot be written.
        """
        name, new_trials, new_facts = _checked(name or embedding.task), list(trials), list(facts)
        new_tags = words_of(tags, source)
        _refuse_long_names([embedding], new_trials)
        kept = self._keep(adapter)

        def change(session: Session) -> None:
            row = get_task(session, name)
            if row is None:
                row = TaskRow(name=name, tags="[]", source="")
                session.add(row)
                describe(row, embedding)
            else:
                refuse_other_classes(row, embedding.classes)
                describe_again(row, embedding)
            refuse_other_layers(session, {name: embedding})
            row.tags = json.dumps(sorted({*json.loads(row.tags), *new_tags}))
            row.source = source or row.source
            row.adapter = kept or row.adapter
            put_embedding(session, row, embedding)
            put_trials(session, row, new_trials)
            put_thumbnails(row, embedding.thumbnails)
            for found in new_facts:
                put_facts(row, found)

        self._write(change)

    def check_classes(self, name: str, classes: Sequence[str]) -> None:
        """Make sure that a task of these classes may be added under a name, before it is embedded.

        Raises:
            StoreError: a task of other classes has the name.
        """
        with self._reading() as session:
            row = get_task(session, name)
            if row is not None:
                refuse_other_classes(row, classes)

    def check_layers(self, name: str, embedding: TaskEmbedding) -> None:
        """Make sure that an embedding may be added under a name: it can be compared with the others.

        Raises:
            StoreError: it is of other layers than those of the other tasks by its probe and estimator.
        """
        with self._reading() as session:
            refuse_other_layers(session, {name: embedding})

    def add_many(self, embeddings: Iterable[TaskEmbedding]) -> None:
        """Store many tasks by their embeddings' names, thousands a second; each thousand is one transaction.

        Raises:
            StoreError: a name is empty, too long, or that of a stored task of other classes, an embedding is of other
                layers than the others by its probe and estimator, an estimator's name is too long, or the store cannot
                be written; the thousands before stay.
        """
        rest = iter(embeddings)
        while some := list(islice(rest, BULK)):
            named = {_checked(embedding.task): embedding for embedding in some}
            _refuse_long_names(some)
            self._write(partial(put_many, named))

    def add_trials(self, name: str, trials: Iterable[Trial]) -> None:
        """Store more trials of a stored task.

        Raises:
            StoreError: there is no such task, or a backbone's name is too long.
        """
        self.add_trials_of((name, trial) for trial in trials)

    def add_trials_of(self, trials: Iterable[tuple[str, Trial]]) -> None:
        """Store more trials of stored tasks, given by name: all of them, or none.

        Raises:
            StoreError: there is no such task, or a backbone's name is too long.
        """
        new: dict[str, list[Trial]] = {}
        for name, trial in trials:
            new.setdefault(name, []).append(trial)
        _refuse_long_names((), chain.from_iterable(new.values()))

        def change(session: Session) -> None:
            for name, some in new.items():
                put_trials(session, self._existing(session, name), some)

        self._write(change)

    def remove(self, name: str) -> None:
        """Forget a task with its embeddings and trials; its adapter's files go with the next `vacuum`.

        Raises:
            StoreError: there is no such task.
        """

        def change(session: Session) -> None:
            session.delete(self._existing(session, name))
            session.execute(sql.update(SchemaRow).values(removals=SchemaRow.removals + 1))

        self._write(change)

    def backbones(self) -> list[BackboneId]:
        """What trials were made with, in alphabetical order of their names."""
        query = sql.select(TrialRow.backbone, TrialRow.backbone_fingerprint).distinct().order_by(TrialRow.backbone)
        with self._reading() as session:
            return [BackboneId.of_name(name, fingerprint) for name, fingerprint in session.execute(query)]

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

    def tasks(self, which: TaskFilter = ALL) -> Iterator[StoredTask]:
        """Tasks in alphabetical order of their names, all of them if nothing is said."""
        query = sql.select(TaskRow).where(*which.conditions()).order_by(TaskRow.name).limit(BULK)
        query = query.options(selectinload(TaskRow.trials), selectinload(TaskRow.facts))
        last = ""
        while True:
            with self._reading() as session:
                found = [self._stored(row) for row in session.scalars(query.where(TaskRow.name > last))]
            if not found:
                return
            yield from found
            last = found[-1].name

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
            return [to_embedding(row, stored_name) for row, stored_name in rows]

    def nearest(
        self,
        embedding: TaskEmbedding,
        k: int = 5,
        *,
        distance: str = "log_cosine",
        which: TaskFilter = ALL,
    ) -> list[Neighbour]:
        """The k stored tasks that are nearest to a task, nearest first; fewer if there are not so many.

        Large stores search a sketch of all embeddings (`task2vec.distances.sketch`) and compare the best thousand
        exactly.

        Args:
            embedding: The target. Only tasks embedded by the same probe and estimator, from the same layer on, are
                compared.
            k: How many.
            distance: Any of `task2vec.DISTANCES`; for `asymmetric`, from the stored task to the target.
            which: Which tasks count, such as `TaskFilter(tags=("medical",))`.

        Raises:
            StoreError: no stored task was embedded alike, or k is no whole number from 1 on.
        """
        if not isinstance(k, Integral) or k < 1:
            raise StoreError(f"k={k} is no number of tasks; give a whole number from 1 on")
        k = min(int(k), LARGEST_K)
        counted = self._counted(which)
        ranked = iter(self._search.ranked(embedding, distance))
        found: list[Neighbour] = []
        while len(found) < k:
            # One that was removed in the meantime leaves a place for the next.
            some = list(islice((pair for pair in ranked if counted is None or pair[0] in counted), k - len(found)))
            if not some:
                break
            found += self._neighbours(some)
        return found

    def _counted(self, which: TaskFilter) -> set[int] | None:
        """Ids of the embeddings of the tasks that count; None if all do."""
        conditions = which.conditions()
        if not conditions:
            return None
        with self._reading() as session:
            return set(session.scalars(sql.select(EmbeddingRow.id).join(TaskRow).where(*conditions)))

    def thumbnails(self, name: str) -> tuple[Thumbnail, ...]:
        """Small pictures of a task's images, where it was added with some.

        Raises:
            StoreError: there is no such task, or they are damaged.
        """
        with self._reading() as session:
            return to_thumbnails(self._existing(session, name))

    def pictured(self) -> set[str]:
        """Names of the tasks that have thumbnails."""
        with self._reading() as session:
            return set(session.scalars(sql.select(TaskRow.name).join(ThumbnailRow).distinct()))

    def forget_thumbnails(self, name: str | None = None) -> int:
        """Remove the pictures of a task, or of all tasks; gives how many pictures there were.

        Their bytes stay in the database's file until `vacuum` writes it anew.

        Raises:
            StoreError: there is no such task.
        """

        def change(session: Session) -> int:
            which = [] if name is None else [ThumbnailRow.task_id == self._existing(session, name).id]
            found = session.scalars(sql.select(ThumbnailRow.id).where(*which)).all()
            session.execute(sql.delete(ThumbnailRow).where(*which))
            return len(found)

        return self._write(change)

    def verify(self) -> list[str]:
        """Everything that is wrong with what is stored, a sentence each; empty if nothing."""
        found: list[str] = []
        try:
            with self._reading() as session:
                found.extend(problems(session, self._files))
        except StoreError as error:  # so damaged that the database itself gave up
            found.append(str(error))
        return found

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
                connection.execute(sql.insert(SchemaRow).values(version=SCHEMA_VERSION, identity=new_identity()))
                return
            version = connection.scalar(sql.select(SchemaRow.version))
            if version is None or version > SCHEMA_VERSION:
                raise StoreError(
                    f"{self.location} has schema version {version}, this package knows {SCHEMA_VERSION}; upgrade it"
                )
            if version < SCHEMA_VERSION:
                upgrade(connection, version)

    def is_part(self, path: str | Path) -> bool:
        """Whether a file is the store's own: its database, what SQLite keeps beside it, an adapter or a sketch."""
        path = Path(path).resolve()
        folders = [Path(folder).resolve() for folder in (self._files and self._files.root, self._index) if folder]
        if self._engine.dialect.name != "sqlite":
            return any(map(path.is_relative_to, folders))
        with self._reading() as session:
            files = [row.file for row in session.execute(sql.text("PRAGMA database_list")) if row.file]
        own = [Path(file + suffix).resolve() for file in files for suffix in BESIDE]
        is_same = any(path == file or (path.exists() and file.exists() and path.samefile(file)) for file in own)
        return is_same or any(map(path.is_relative_to, folders))

    def close(self) -> None:
        """Let go of all connections; the store opens new ones when it is used again."""
        self._engine.dispose()

    @contextmanager
    def _reading(self) -> Iterator[Session]:
        try:
            with connected(self._engine) as connection, Session(connection) as session, session.begin():
                yield session
        except SQLAlchemyError as error:
            raise StoreError(f"{self.location} could not be read ({_cause(error)}); try again") from error

    def _write(self, change: Callable[[Session], Result]) -> Result:
        """Do `change` in a transaction; again, where another process wrote the same or the connection broke."""
        for attempt in range(1, TRIES + 1):
            try:
                with connected(self._writing) as connection, Session(connection) as session, session.begin():
                    # Counting first makes writers wait for each other, so that revisions come in the order of commits.
                    count = sql.update(SchemaRow).values(revision=SchemaRow.revision + 1).returning(SchemaRow.revision)
                    session.info[REVISION] = session.scalar(count)
                    return change(session)
            except SQLAlchemyError as error:
                if attempt < TRIES and (isinstance(error, IntegrityError) or is_lost(error)):
                    time.sleep(random.uniform(0, 0.02 * attempt))
                    continue
                raise StoreError(
                    f"{self.location} could not be written ({_cause(error)}); nothing was changed"
                ) from error
        raise AssertionError  # the last attempt returns or raises

    def _existing(self, session: Session, name: str) -> TaskRow:
        row = get_task(session, name)
        if row is None:
            known = ", ".join(session.scalars(sql.select(TaskRow.name).order_by(TaskRow.name).limit(5))) or "none"
            raise StoreError(f"{self.location} has no task {name!r}; it has {known}")
        return row

    def _stored(self, row: TaskRow) -> StoredTask:
        adapter = None if row.adapter is None or self._files is None else self._files.path(row.adapter)
        try:
            trials = tuple(to_trial(trial) for trial in row.trials)
            classes, tags = tuple(json.loads(row.classes)), tuple(json.loads(row.tags))
            facts = tuple(to_facts(found) for found in row.facts)
        except ValueError as error:
            raise StoreError(f"stored task {row.name!r} is damaged ({error}); run task2vec store verify") from error
        return StoredTask(row.name, row.num_images, classes, trials, adapter, tags, row.source, facts)

    def _keep(self, adapter: str | Path | None) -> str | None:
        if adapter is None:
            return None
        if self._files is None:
            raise StoreError(f"{self.location} has no directory for adapters; open it with files=")
        return self._files.keep(Path(adapter))

    def _neighbours(self, ranked: list[tuple[int, float]]) -> list[Neighbour]:
        """The embeddings of these ids with their distances, without those that were removed in the meantime."""
        found: list[Neighbour] = []
        for start in range(0, len(ranked), BULK):
            part = ranked[start : start + BULK]
            query = sql.select(EmbeddingRow, TaskRow.name).join(TaskRow)
            with self._reading() as session:
                rows = session.execute(query.where(EmbeddingRow.id.in_([number for number, _ in part]))).all()
                by_id = {row.id: to_embedding(row, name) for row, name in rows}
            found += [Neighbour(by_id[n].task, value, by_id[n]) for n, value in part if n in by_id]
        return found


def _checked(name: str) -> str:
    if not 0 < len(name) <= NAME_LENGTH:
        raise StoreError(f"a task's name must have 1 to {NAME_LENGTH} characters, not {len(name)}; give name=")
    if not is_text(name):
        raise StoreError(f"a task's name cannot hold control characters, as {name!r} does; give name=")
    return name


def _refuse_long_names(embeddings: Iterable[TaskEmbedding], trials: Iterable[Trial] = ()) -> None:
    problem = long_name(embeddings, trials)
    if problem:
        raise StoreError(f"{problem}; give it a shorter one")


def _cause(error: Exception) -> str:
    return str(getattr(error, "orig", None) or error).splitlines()[0]
