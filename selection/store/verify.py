"""What is wrong with what a store holds."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping

import sqlalchemy as sql
from sqlalchemy.orm import Session

from selection.errors import StoreError
from selection.store.files import AdapterFiles
from selection.store.rows import to_embedding, to_facts, to_thumbnails, to_trial
from selection.store.schema import EmbeddingRow, FactsRow, TaskRow, TrialRow

BULK = 1000  # rows that are read at once


def _odd_lengths(probe: str, method: str, by_length: Mapping[int, list[str]]) -> Iterator[str]:
    """A sentence for each task whose embedding is of other layers than most: earlier versions let them in."""
    usual = max(by_length, key=lambda length: len(by_length[length]))
    for length, names in by_length.items():
        if length != usual:
            yield from (
                f"the embedding of {name!r} under probe {probe} by {method} has {length:,} filters, and most have "
                f"{usual:,}: it was measured from another layer on and is not compared with them; embed it again like "
                "them, or remove the task"
                for name in names
            )


def problems(session: Session, files: AdapterFiles | None) -> Iterator[str]:
    """Everything that is wrong, a sentence each, as it is found."""
    if session.get_bind().dialect.name == "sqlite":
        found = session.execute(sql.text("PRAGMA integrity_check")).scalars().all()
        yield from (f"the database file is damaged: {line}" for line in found if line != "ok")
    kinds: defaultdict[tuple[str, str], defaultdict[int, list[str]]] = defaultdict(lambda: defaultdict(list))
    for row, name in session.execute(sql.select(EmbeddingRow, TaskRow.name).join(TaskRow)).yield_per(BULK):
        try:
            embedding = to_embedding(row, name)
            kinds[f"{embedding.probe_name} ({row.probe[:8]})", row.method][len(embedding.fisher)].append(name)
        except StoreError as error:
            yield str(error)
    for (probe, method), by_length in kinds.items():
        yield from _odd_lengths(probe, method, by_length)
    for trial, name in session.execute(sql.select(TrialRow, TaskRow.name).join(TaskRow)).yield_per(BULK):
        try:
            to_trial(trial)
        except ValueError as error:
            yield f"trial {trial.id} of {name!r} is damaged ({error}); remove it and run it again"
    for facts, name in session.execute(sql.select(FactsRow, TaskRow.name).join(TaskRow)).yield_per(BULK):
        try:
            to_facts(facts)
        except ValueError as error:
            yield f"facts {facts.id} of {name!r} are damaged ({error}); remove the task and add it again"
    for task in session.scalars(sql.select(TaskRow).where(TaskRow.thumbnails.any())).yield_per(BULK):
        try:
            to_thumbnails(task)
        except StoreError as error:
            yield str(error)
    adapters = sql.select(TaskRow.name, TaskRow.adapter).where(TaskRow.adapter.is_not(None))
    for name, digest in session.execute(adapters):
        problem = "has no directory" if files is None else files.problem(str(digest))
        if problem:
            yield f"the adapter of {name!r} {problem}; add it again"
