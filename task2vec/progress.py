"""How far a long computation has come, shown on standard error."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

Report = Callable[[str, int, int], None]
"""Called as work goes on, with what is being done, how much is done, and how much there is."""


def silent(what: str, done: int, total: int) -> None:
    """A report to nobody."""


@contextmanager
def reporting(shown: bool | Report) -> Iterator[Report]:
    """Give a function to report to: one progress bar for each thing that is being done, nothing, or the one given."""
    if callable(shown) or not shown:
        yield shown if callable(shown) else silent
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    with Progress(*columns, console=Console(stderr=True)) as bars:
        known = {}

        def report(what: str, done: int, total: int) -> None:
            if what not in known:
                known[what] = bars.add_task(what, total=total)
            bars.update(known[what], completed=done, total=total)

        yield report
