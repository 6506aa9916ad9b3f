"""Which stored embeddings are nearest: all of them compared, or those that a sketch names first."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import sqlalchemy as sql
from sqlalchemy.orm import Session

from selection.errors import StoreError
from selection.store.index import SearchIndex
from selection.store.rows import to_embedding
from selection.store.schema import BYTES, EmbeddingRow, SchemaRow, TaskRow
from task2vec import EmbeddingError, TaskEmbedding, distance_matrix
from task2vec.distances import ESTIMATES
from task2vec.distances.logarithms import logs
from task2vec.distances.reference import shipped_reference

CANDIDATES = 1000  # of a sketch that are compared exactly, before more are asked for
AT_ONCE = 4096  # embeddings asked for in one statement
BLOCK = 2**16  # entries of stored vectors compared at once: they stay in a core's cache

Found = tuple[int, float]
"""The id of an embedding and its distance."""

Kind = tuple[str, str, int]
"""`TaskEmbedding.kind`."""

Reading = Callable[[], AbstractContextManager[Session]]


class Search:
    """Orders the embeddings of a store by their distance to one.

    Args:
        location: The store, for messages.
        reading: Opens a session.
        exact_up_to: With more embeddings of a probe than this, a sketch is searched first.
        directory: Where the sketches are kept; None keeps them in memory.
    """

    def __init__(self, location: str, reading: Reading, exact_up_to: int, directory: Path | None) -> None:
        self._location, self._reading, self._exact_up_to, self._directory = location, reading, exact_up_to, directory
        self._vectors: dict[Kind, _Vectors] = {}
        self._indexes: dict[Kind, SearchIndex] = {}
        self._counted: dict[Kind, tuple[int, int]] = {}

    def ranked(self, embedding: TaskEmbedding, distance: str) -> Iterator[Found]:
        """Ids and distances of all embeddings of the same probe, estimator and layers, nearest first.

        Raises:
            StoreError: there is none, or one is damaged.
        """
        count = self._count(embedding)
        if not count:
            raise StoreError(self._nothing_like(embedding))
        try:
            if count <= self._exact_up_to:
                yield from self._all_of_a_small_store(embedding, distance)
            elif distance in ESTIMATES:
                yield from self._by_sketch(embedding, distance)
            else:
                yield from self._all_of_a_large_store(embedding, distance)
        except EmbeddingError as error:
            raise StoreError(
                f"{self._location} holds a damaged embedding ({error}); run task2vec store verify"
            ) from error

    def _nothing_like(self, embedding: TaskEmbedding) -> str:
        """Why nothing can be compared with an embedding, and what to do."""
        query = sql.select(EmbeddingRow.method, sql.func.min(EmbeddingRow.facts))
        with self._reading() as session:
            rows = session.execute(query.group_by(EmbeddingRow.probe, EmbeddingRow.method)).all()
            length = session.scalar(sql.select(sql.func.length(EmbeddingRow.fisher)).where(*_alike(embedding)).limit(1))
        known = sorted({f"{json.loads(facts)['probe_name']} ({method})" for method, facts in rows})
        add = f"task2vec store add STORE FOLDER --probe {embedding.probe_name}"
        if not known:
            return f"{self._location} holds no task; fill it with {add}"
        if length is not None:
            return (
                f"embedding {embedding.task!r} has {len(embedding.fisher):,} filters, and those in {self._location} "
                f"have {length // BYTES:,}; measure the same layers"
            )
        return (
            f"{self._location} has no task embedded with probe {embedding.probe_name} ({embedding.probe[:8]}) and "
            f"method {embedding.method}, but with {', '.join(known)}; use one of these, or fill a store with {add}"
        )

    def _count(self, embedding: TaskEmbedding) -> int:
        """How many embeddings of the same probe and estimator there are; 0 if all are of other layers."""
        key = embedding.kind
        with self._reading() as session:
            revision = session.scalar(sql.select(SchemaRow.revision)) or 0
            if self._counted.get(key, (-1, 0))[0] != revision:
                of_same_layers = sql.func.length(EmbeddingRow.fisher) == BYTES * len(embedding.fisher)
                found = session.scalar(_ids(embedding).where(of_same_layers).limit(1))
                all_of_them = sql.select(sql.func.count()).select_from(_ids(embedding).subquery())
                self._counted[key] = revision, 0 if found is None else session.scalar(all_of_them) or 0
        return self._counted[key][1]

    def _all_of_a_small_store(self, embedding: TaskEmbedding, distance: str) -> Iterator[Found]:
        vectors = self._vectors_of(embedding)
        reference = None
        if distance == "log_cosine":
            reference = (vectors.log_sum + logs(embedding.fisher[None].astype(np.float64))[0]) / (len(vectors.ids) + 1)
        distances = self._distances(vectors.ids, vectors.fisher, embedding, distance, reference)
        for i in np.argsort(distances, kind="stable"):
            yield int(vectors.ids[i]), float(distances[i])

    def _by_sketch(self, embedding: TaskEmbedding, distance: str) -> Iterator[Found]:
        key = embedding.kind
        if key not in self._indexes:
            with self._reading() as session:
                identity = session.scalar(sql.select(SchemaRow.identity))
            place = None if self._directory is None else self._directory / _directory_name(identity, *key[:2])
            self._indexes[key] = SearchIndex(*key, embedding.trivial is not None, place)
        index = self._indexes[key]
        with self._reading() as session:
            index.update(session)
        trivial = None if embedding.trivial is None else embedding.trivial[None]
        target = index.projection.sketch([-1], embedding.fisher[None], trivial)
        estimate = ESTIMATES[distance]
        estimates = np.concatenate([estimate(s, target, index.num_filters) for s in index.sketches])
        ids = np.concatenate([sketch.ids for sketch in index.sketches])
        start, end = 0, min(CANDIDATES, len(ids))
        while start < len(ids):
            best = _smallest(estimates, start, end)
            yield from self._exactly(ids[best], embedding, distance, index.projection.centre)
            start, end = end, min(4 * end, len(ids))

    def _all_of_a_large_store(self, embedding: TaskEmbedding, distance: str) -> Iterator[Found]:
        with self._reading() as session:
            ids = np.fromiter(session.scalars(_ids(embedding)), np.int64)
        yield from self._exactly(ids, embedding, distance)

    def _exactly(
        self,
        ids: npt.NDArray[np.int64],
        embedding: TaskEmbedding,
        distance: str,
        reference: npt.ArrayLike | None = None,
    ) -> list[Found]:
        """These embeddings, nearest first."""
        found: list[Found] = []
        for start in range(0, len(ids), AT_ONCE):
            some = ids[start : start + AT_ONCE].tolist()
            query = sql.select(EmbeddingRow.id, EmbeddingRow.fisher).where(EmbeddingRow.id.in_(some))
            with self._reading() as session:
                rows = session.execute(query).all()
            present, fisher = _stack(rows, len(embedding.fisher))  # one may have been removed in the meantime
            distances = self._distances(present, fisher, embedding, distance, reference)
            found += zip(present.tolist(), distances.tolist(), strict=True)
        return sorted(found, key=lambda pair: pair[1])

    def _vectors_of(self, embedding: TaskEmbedding) -> _Vectors:
        """All Fishers that can be compared by the names of their tasks, kept until the store changes."""
        key = embedding.kind
        with self._reading() as session:
            revision = int(session.scalar(sql.select(SchemaRow.revision)) or 0)
            known = self._vectors.get(key)
            if known is not None and known.revision == revision:
                return known
            named = _ids(embedding).add_columns(EmbeddingRow.fisher).join(TaskRow).order_by(TaskRow.name)
            rows = session.execute(named).all()
        vectors = _Vectors(revision, *_stack(rows, len(embedding.fisher)))
        self._vectors[key] = vectors
        return vectors

    def _distances(
        self,
        ids: npt.NDArray[np.int64],
        fisher: npt.NDArray[np.float32],
        embedding: TaskEmbedding,
        distance: str,
        reference: npt.ArrayLike | None = None,
    ) -> npt.NDArray[np.float64]:
        """From each stored embedding to the target, `(n,)`."""
        shipped = shipped_reference(embedding.probe, len(embedding.fisher))
        if shipped is not None:
            reference = shipped
        if embedding.trivial is not None:  # the trivial task differs from one embedding to the next
            stored = [self._embedding(i) for i in ids.tolist()]
            return distance_matrix(stored, distance, [embedding], reference=reference)[:, 0]
        rows = max(1, BLOCK // max(1, fisher.shape[1]))
        blocks = (fisher[i : i + rows] for i in range(0, len(fisher), rows))
        target = embedding.fisher[None]
        return np.concatenate([distance_matrix(b, distance, target, reference=reference)[:, 0] for b in blocks])

    def _embedding(self, number: int) -> TaskEmbedding:
        with self._reading() as session:
            row = session.get(EmbeddingRow, number)
            if row is None:
                raise StoreError(f"embedding {number} was removed in the meantime; ask again")
            return to_embedding(row, str(number))


@dataclasses.dataclass(frozen=True)
class _Vectors:
    """All Fishers of one kind, as of one revision of the store."""

    revision: int
    ids: npt.NDArray[np.int64]
    fisher: npt.NDArray[np.float32]

    @cached_property
    def log_sum(self) -> npt.NDArray[np.float64]:
        """Sum of the log embeddings, `(D,)`: what log_cosine's reference needs where none is shipped."""
        blocks = (self.fisher[i : i + AT_ONCE].astype(np.float64) for i in range(0, len(self.fisher), AT_ONCE))
        return np.asarray(sum(logs(block).sum(axis=0) for block in blocks))


def _ids(embedding: TaskEmbedding) -> sql.Select[Any]:
    """The embeddings of the same probe and estimator."""
    return sql.select(EmbeddingRow.id).where(*_alike(embedding))


def _alike(embedding: TaskEmbedding) -> tuple[sql.ColumnElement[bool], ...]:
    return EmbeddingRow.probe == embedding.probe, EmbeddingRow.method == embedding.method


def _directory_name(*parts: str | None) -> str:
    """A name for the sketches of one store, probe and estimator: a hash, so that nothing stored chooses a path."""
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:32]


def _smallest(values: npt.NDArray[np.float32], start: int, end: int) -> npt.NDArray[np.int64]:
    """Where the values from the start-th smallest to before the end-th stand; of equal ones the first is smaller."""
    if start > 0:
        return np.asarray(np.argsort(values, kind="stable")[start:end])
    last = np.partition(values, end - 1)[end - 1]
    below = np.flatnonzero(values < last)
    return np.concatenate([below, np.flatnonzero(values == last)[: end - len(below)]])


def _stack(rows: Sequence[Any], num_filters: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]:
    """Ids and Fishers `(n, D)` of the rows with so many filters; `verify` names the others."""
    alike = [row for row in rows if len(row.fisher) == BYTES * num_filters]
    fisher = np.frombuffer(b"".join(row.fisher for row in alike), "<f4").reshape(len(alike), num_filters)
    return np.array([row.id for row in alike], np.int64), fisher
