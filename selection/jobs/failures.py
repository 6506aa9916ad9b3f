"""Jobs that failed: each gets a log of its own, the others go on, and in the end one sentence says which."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from selection.errors import SelectionError
from selection.jobs.job import Failure, Outcome

LOGS = "task2vec-logs"  # folder of the logs, where the caller names none
NAMED = 3  # failed jobs that the sentence names


class Failures:
    """Collects what failed.

    Args:
        folder: Where logs go, one for each failed job, called as the job is. It is made for the first one.
    """

    def __init__(self, folder: str | Path = LOGS) -> None:
        self.folder = Path(folder)
        self.names: list[str] = []
        self._described: list[str] = []

    def sort_out(self, outcomes: Iterable[list[Outcome]]) -> Iterator[list[Outcome]]:
        """Only the jobs that finished, and what they gave."""
        for together in outcomes:
            for _, outcome in together:
                if isinstance(outcome, Failure):
                    self.add(outcome)
            finished = [(job, outcome) for job, outcome in together if not isinstance(outcome, Failure)]
            if finished:
                yield finished

    def add(self, failure: Failure) -> None:
        """Note a failure, and write its log."""
        self.folder.mkdir(parents=True, exist_ok=True)
        name = re.sub(r"[^-+.=@,\w]+", "_", failure.name)[:200]
        (self.folder / f"{name}.log").write_text(failure.details)
        self.names.append(failure.name)
        self._described.append(f"{failure.name} ({failure.reason.rstrip('.')})")

    def raise_any(self, rest: str = "everything else is done, and the same command runs only what is missing") -> None:
        """Say what failed.

        Args:
            rest: What became of all else.

        Raises:
            SelectionError: something did.
        """
        if not self.names:
            return
        more = f", and {len(self.names) - NAMED} more" if len(self.names) > NAMED else ""
        raise SelectionError(
            f"{len(self.names)} failed: {'; '.join(self._described[:NAMED])}{more} (logs by their names in "
            f"{self.folder}); {rest}"
        )
