"""What is wrong with what a store holds."""

from __future__ import annotations

from collections.abc import Iterator

import sqlalchemy as sql
from sqlalchemy.orm import Session

from selection.errors import StoreError
from selection.store.files import AdapterFiles
from selection.store.rows import to_embedding, to_facts, to_thumbnails, to_trial
from selection.store.schema import EmbeddingRow, FactsRow, TaskRow, TrialRow

BULK = 1000  # rows that are read at once


def problems(session: Session, files: AdapterFiles | None) -> Iterator[str]:
    """Everything that is wrong, a sentence each, as it is found."""
    if session.get_bind().dialect.name == "sqlite":
        found = session.execute(sql.text("PRAGMA integrity_check")).scalars().all()
        yield from (f"the database file is damaged: {line}" for line in found if line != "ok")
    for row, name in session.execute(sql.select(EmbeddingRow, TaskRow.name).join(TaskRow)).yield_per(BULK):
        try:
            to_embedding(row, name)
        except StoreError as error:
            yield str(error)
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
