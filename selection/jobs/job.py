"""A job: a call that can run anywhere; and what runs jobs."""

from __future__ import annotations

import dataclasses
import os
import platform
import traceback
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Protocol


@dataclasses.dataclass(frozen=True)
class Job:
    """A call that can run anywhere.

    Attributes:
        name: What people know it by, such as a task and a configuration.
        function: What is called, a function of a module: other processes import it.
        arguments: Its arguments. They, and what it gives, can be pickled; they may be what a runner shares.
        about: What the caller needs to know when it is finished. It stays in the caller's process.
    """

    name: str
    function: Callable[..., Any]
    arguments: tuple[Any, ...]
    about: Any = None


@dataclasses.dataclass(frozen=True)
class Failure:
    """What became of a job that did not finish.

    Attributes:
        name: The job's.
        reason: What went wrong, in one line.
        details: The traceback, and where it was.
    """

    name: str
    reason: str
    details: str

    @classmethod
    def of(cls, name: str, error: BaseException) -> Failure:
        """What an error says, in the process that it was raised in."""
        where = f"in process {os.getpid()} on {platform.node()}"
        return cls(name, one_line(error), f"{name}, {where}\n\n{''.join(traceback.format_exception(error))}")


Outcome = tuple[Job, Any]
"""A job, and what it gave or its `Failure`."""


def one_line(error: BaseException) -> str:
    """The kind of an error and the first line of what it says."""
    first = next(iter(str(error).strip().splitlines()), "")
    return f"{type(error).__name__}: {first}" if first else type(error).__name__


def itself(value: Any) -> Any:
    """The call that a value is shared with as it is."""
    return value


class Runner(Protocol):
    """What runs jobs."""

    def share(self, name: str, function: Callable[..., Any], *arguments: Any) -> Any:
        """What a call gives, for many jobs: a stand-in that they take as an argument. It is made once."""
        ...

    def run(self, jobs: Iterable[Job | None], *, early: bool = True) -> Iterator[list[Outcome]]:
        """Each job and what it gave, or a `Failure`, as they finish; those that are found finished together at once.

        Jobs are taken as there is room for them: what a generator shares for its jobs is made when they are near.

        Args:
            jobs: What to run. None among them says that there is nothing to run until something has finished, and the
                end where nothing runs.
            early: Take more jobs than can start at once, so that nothing waits for the next one. Without it, a
                generator is asked for a job when there is room for it, and may choose it by all that has finished.
        """
        ...
