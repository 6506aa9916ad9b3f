"""Jobs in this process, one after the other."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator
from functools import cached_property
from typing import Any

from selection.jobs.job import Failure, Job, Outcome


@dataclasses.dataclass(frozen=True)
class Shared:
    """A call that is made when its value is first needed."""

    function: Callable[..., Any]
    arguments: tuple[Any, ...]

    @cached_property
    def value(self) -> Any:
        """What the call gives."""
        return self.function(*self.arguments)


class InProcess:
    """Runs jobs in this process, one after the other."""

    def share(self, name: str, function: Callable[..., Any], *arguments: Any) -> Shared:
        """See `Runner`."""
        return Shared(function, arguments)

    def run(self, jobs: Iterable[Job | None], *, early: bool = True) -> Iterator[list[Outcome]]:
        """See `Runner`."""
        for job in jobs:
            if job is None:
                return
            try:
                given = (a.value if isinstance(a, Shared) else a for a in job.arguments)
                outcome = job.function(*given)
            except Exception as error:
                outcome = Failure.of(job.name, error)
            yield [(job, outcome)]
