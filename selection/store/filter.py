"""Which stored tasks count, as a condition on their rows."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Collection

import sqlalchemy as sql

from selection.errors import StoreError
from selection.store.schema import TaskRow, TrialRow


@dataclasses.dataclass(frozen=True)
class TaskFilter:
    """Which stored tasks count.

    Attributes:
        tags: They have all of these tags.
        without_tags: They have none of these.
        sources: They come from one of these sources; from any if empty.
        names: They are among these; any if None.
        exclude: They are not among these.
        with_trials: They have trials.
        trials_on: They have trials on this architecture.

    Raises:
        StoreError: one is a text instead of several.
    """

    tags: tuple[str, ...] = ()
    without_tags: tuple[str, ...] = ()
    sources: tuple[str, ...] = ()
    names: Collection[str] | None = None
    exclude: Collection[str] = ()
    with_trials: bool = False
    trials_on: str | None = None

    def __post_init__(self) -> None:
        for field in ("tags", "without_tags", "sources", "names", "exclude"):
            if isinstance(getattr(self, field), str):
                raise StoreError(f"{field}={getattr(self, field)!r} must be several texts; give a tuple of one")

    def conditions(self) -> list[sql.ColumnElement[bool]]:
        """What a task's row must meet."""
        found: list[sql.ColumnElement[bool]] = [_has_tag(tag) for tag in self.tags]
        found += [~_has_tag(tag) for tag in self.without_tags]
        if self.sources:
            found.append(TaskRow.source.in_(self.sources))
        if self.names is not None:
            found.append(TaskRow.name.in_(self.names))
        if self.exclude:
            found.append(TaskRow.name.not_in(self.exclude))
        if self.with_trials:
            found.append(TaskRow.trials.any())
        if self.trials_on is not None:
            # A backbone is stored as its architecture, with its tag after a dot if it is known.
            tagged = TrialRow.backbone.startswith(f"{self.trials_on}.", autoescape=True)
            found.append(TaskRow.trials.any(tagged | (TrialRow.backbone == self.trials_on)))
        return found


def _has_tag(tag: str) -> sql.ColumnElement[bool]:
    """Tags are kept as a list in JSON, where each stands in quotes."""
    # SQLite's LIKE takes small and capital letters for the same; what is replaced has to be the very same.
    return sql.func.replace(TaskRow.tags, json.dumps(tag), "") != TaskRow.tags


ALL = TaskFilter()
