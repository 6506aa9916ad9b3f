"""The search index of a large store: sketches of all embeddings of one probe and estimator, in memory and on disk.

What was written to the store since the last search is sketched and added; embeddings that are gone are dropped. On
disk every addition is a file of its own, named by the revisions of the store that it covers. Files are merged as in a
log-structured merge tree: a new one takes in earlier ones that are not much larger than it. The files can be lost at
any time: what is damaged or does not follow is made again from the store. Several processes may share them, as no file
is ever changed.
"""

from __future__ import annotations

import dataclasses
import json
import shutil
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import sqlalchemy as sql
from safetensors import SafetensorError, safe_open
from safetensors.numpy import load as from_bytes
from safetensors.numpy import save as to_bytes
from sqlalchemy.orm import Session

from selection.store.schema import BYTES, EmbeddingRow, SchemaRow
from task2vec.distances import Projection, Sketch
from task2vec.distances.reference import shipped_reference
from task2vec.distances.sketch import SAMPLE
from task2vec_base import write_atomically

CHUNK = 4096  # embeddings sketched at once
LARGEST = 2**16  # embeddings of a sketch that still takes in another
FORMAT_VERSION = 1


@dataclasses.dataclass(frozen=True)
class _Rows:
    """Some embeddings, in the order of their revisions."""

    ids: npt.NDArray[np.int64]
    revisions: npt.NDArray[np.int64]
    fisher: npt.NDArray[np.float32]
    trivial: npt.NDArray[np.float32] | None


class SearchIndex:
    """The sketches of all embeddings of one probe, estimator and number of filters.

    Args:
        probe: Its fingerprint.
        method: The estimator.
        num_filters: D.
        own_trivial: Whether its embeddings know what they find for the trivial task.
        directory: Where to keep files; None keeps the sketches in memory only.

    Attributes:
        projection: Centre and axes of the sketches.
        sketches: Together all embeddings, each once.
    """

    def __init__(self, probe: str, method: str, num_filters: int, own_trivial: bool, directory: Path | None) -> None:
        self.probe, self.method, self.num_filters, self.own_trivial = probe, method, num_filters, own_trivial
        self.directory = directory
        self.projection: Projection
        self.sketches: list[Sketch] = []
        self._starts: list[int] = []  # the revision after which each sketch begins
        self._revision, self._saved, self._removals, self._fitted_on = 0, 0, -1, 0
        if directory is not None and not self._load(directory):
            self._forget()

    def __len__(self) -> int:
        return sum(map(len, self.sketches))

    def update(self, session: Session) -> None:
        """Catch up with the store."""
        schema = session.scalars(sql.select(SchemaRow)).one()
        if (schema.revision, schema.removals) == (self._revision, self._removals):
            return
        total = session.scalar(sql.select(sql.func.count()).select_from(self._all().subquery())) or 0
        if total >= 2 * self._fitted_on:  # the axes of a store half the size may not suit it
            self._forget()
            self._fit(session, total)
        fresh = self._all().where(EmbeddingRow.revision > self._revision)
        parts: list[Sketch] = []
        last = 0
        for rows in self._chunks(session, fresh.order_by(EmbeddingRow.revision, EmbeddingRow.id)):
            if sum(map(len, parts)) >= LARGEST and rows.revisions[0] > last:
                self._append(Sketch.concatenate(parts), last)
                parts = []
            parts.append(self.projection.sketch(rows.ids, rows.fisher, rows.trivial))
            last = int(rows.revisions[-1])
        if parts:
            self._append(Sketch.concatenate(parts), schema.revision)
        if schema.removals != self._removals and self.sketches:
            present = np.fromiter(session.scalars(self._all()), np.int64)
            self._drop(lambda ids: ~np.isin(ids, present, assume_unique=True))
        self._revision, self._removals = schema.revision, schema.removals

    def _all(self) -> sql.Select[Any]:
        return sql.select(EmbeddingRow.id).where(EmbeddingRow.probe == self.probe, EmbeddingRow.method == self.method)

    def _fit(self, session: Session, total: int) -> None:
        """Take the axes from embeddings spread evenly over the store."""
        rank = sql.func.row_number().over(order_by=EmbeddingRow.id).label("rank")
        alike = self._all().where(sql.func.length(EmbeddingRow.fisher) == BYTES * self.num_filters)
        numbered = alike.add_columns(rank, sql.func.count().over().label("count")).subquery()
        step = sql.case((numbered.c.count < SAMPLE, 1), else_=numbered.c.count // SAMPLE)
        some = sql.select(numbered.c.id).where(numbered.c.rank % step == 0)
        sample = self._all().where(EmbeddingRow.id.in_(some))
        fisher = np.concatenate([rows.fisher for rows in self._chunks(session, sample)])
        self.projection = Projection.fit(fisher, shipped_reference(self.probe, self.num_filters))
        self._fitted_on = total
        self._save("projection", vars(self.projection), {"fitted_on": total})

    def _chunks(self, session: Session, query: sql.Select[Any]) -> Iterator[_Rows]:
        """The embeddings that a query of ids finds, without those of other layers."""
        columns = [EmbeddingRow.revision, EmbeddingRow.fisher, *([EmbeddingRow.tensors] if self.own_trivial else [])]
        found = session.execute(query.add_columns(*columns).execution_options(yield_per=CHUNK))
        for rows in found.partitions(CHUNK):
            part = [row for row in rows if len(row.fisher) == BYTES * self.num_filters]
            if not part:
                continue
            yield _Rows(
                ids=np.fromiter((row.id for row in part), np.int64),
                revisions=np.fromiter((row.revision for row in part), np.int64),
                fisher=np.frombuffer(b"".join(row.fisher for row in part), "<f4").reshape(len(part), -1),
                trivial=np.stack([from_bytes(row.tensors)["trivial"] for row in part]) if self.own_trivial else None,
            )

    def _drop(self, gone: Callable[[npt.NDArray[np.int64]], npt.NDArray[np.bool_]]) -> None:
        for i, sketch in enumerate(self.sketches):
            away = gone(sketch.ids)
            if away.any():
                self.sketches[i] = sketch.rows(~away)

    def _append(self, new: Sketch, revision: int) -> None:
        """Add a sketch, merged with its predecessors that are small and not more than twice as large."""
        self._drop(lambda ids: np.isin(ids, new.ids, assume_unique=True))
        start = self._saved
        while self.sketches and len(self.sketches[-1]) <= min(2 * len(new), LARGEST - len(new)):
            new = Sketch.concatenate([self.sketches.pop(), new])
            start = self._starts.pop()
        self.sketches.append(new)
        self._starts.append(start)
        self._saved = revision
        # Another process may have taken new axes in the meantime; a sketch only counts together with its own.
        self._save(f"{start:012d}-{revision:012d}", vars(new), {"projection": _checksum(vars(self.projection))})
        if self.directory is not None:
            for path in self.directory.glob("0*-0*.safetensors"):
                first, last = (int(part) for part in path.stem.split("-"))
                if first >= start and last < revision:
                    path.unlink(missing_ok=True)

    def _forget(self) -> None:
        self.sketches, self._starts = [], []
        self._revision, self._saved, self._removals, self._fitted_on = 0, 0, -1, 0
        if self.directory is not None:
            shutil.rmtree(self.directory, ignore_errors=True)

    def _save(self, name: str, tensors: dict[str, Any], facts: dict[str, int]) -> None:
        """Write a file of the index. Where that is not possible the index lives in memory."""
        if self.directory is None:
            return
        facts |= {"format_version": FORMAT_VERSION, "checksum": _checksum(tensors)}
        content = to_bytes(tensors, metadata={"task2vec": json.dumps(facts)})
        try:
            write_atomically(self.directory / f"{name}.safetensors", lambda path: path.write_bytes(content))
        except OSError:
            self.directory = None

    def _load(self, directory: Path) -> bool:
        """Read the files; False where there is none or one of them is damaged."""
        try:
            tensors, facts = _read(directory / "projection.safetensors")
            self.projection, self._fitted_on = Projection(**tensors), int(facts["fitted_on"])
            if len(self.projection.centre) != self.num_filters:  # of a store that holds both
                return False
            projection = _checksum(tensors)
            while True:
                following = sorted(directory.glob(f"{self._revision:012d}-0*.safetensors"))
                if not following:
                    break
                tensors, facts = _read(following[-1])
                if facts["projection"] != projection:
                    return False
                self.sketches.append(Sketch(**tensors))
                self._starts.append(self._revision)
                self._revision = self._saved = int(following[-1].stem.split("-")[1])
        except (OSError, SafetensorError, ValueError, KeyError, TypeError):
            return False
        newer = np.empty(0, np.int64)
        for i in reversed(range(len(self.sketches))):  # of an embedding that was replaced, the last sketch counts
            sketch = self.sketches[i]
            self.sketches[i] = sketch.rows(~np.isin(sketch.ids, newer))
            newer = np.concatenate([newer, sketch.ids])
        return True


def _checksum(tensors: dict[str, Any]) -> int:
    checksum = 0
    for name in sorted(tensors):
        checksum = zlib.crc32(np.ascontiguousarray(tensors[name]).view(np.uint8).reshape(-1).data, checksum)
    return checksum


def _read(path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Tensors and facts of a file of the index.

    Raises:
        ValueError: it is damaged or of another version.
    """
    with safe_open(path, framework="numpy") as file:
        facts = json.loads((file.metadata() or {})["task2vec"])
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 a safetensors file is no mapping
    if facts["format_version"] != FORMAT_VERSION or facts["checksum"] != _checksum(tensors):
        raise ValueError(f"{path} is damaged")
    return tensors, facts
