"""Where tries are made: in this process one after the other, or on a cluster at the same time."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Iterator
from functools import partial
from itertools import chain
from pathlib import Path

from torch import nn

from selection.errors import SelectionError
from selection.jobs import Failure, Failures, Job, Runner, itself
from selection.jobs.failures import LOGS
from selection.recommendation.learning_curves import LearningCurves
from selection.recommendation.pace import slowness_under
from selection.recommendation.result import Recommendation
from selection.tuning.one import Tuned
from selection.tuning.search import Search
from selection.tuning.tries import Packed, Try, attempt, files_of, packed_attempt
from task2vec import Compute, Splits
from task2vec.progress import reporting


@dataclasses.dataclass(frozen=True)
class Workplace:
    """Where the tries on one task are made, and what they share.

    Attributes:
        training: `tune_alone` with what all trainings share but `compute` and `progress`.
        model: The backbone.
        splits: The task.
        curves: What stored trials say of where trainings end; None if nothing.
        compute: Where and how.
        out: Folder for the results; None for nowhere.
    """

    training: Callable[..., Tuned]
    model: nn.Module
    splits: Splits
    curves: LearningCurves | None
    compute: Compute
    out: Path | None

    def here(self, search: Search, *, several: bool, progress: bool) -> tuple[Tuned, Recommendation]:
        """Make one try after the other in this process, and give the best; a single one changes the backbone itself."""
        search.clock.slowness = slowness_under(
            search.max_seconds, search.first(), self.model, self.splits, self.compute
        )
        training = partial(self.training, compute=self.compute, progress=progress)
        if not several:
            one = next(search.tries())
            assert one is not None  # nothing else runs
            tried = attempt(training, self.model, self.splits, self.curves, one, self.out)
            search.took(one, tried)
            return tried.tuned, search.best()[1]
        finished: dict[int, Packed] = {}
        for one in search.tries():
            assert one is not None
            tried = attempt(training, copy.deepcopy(self.model), self.splits, self.curves, one, self._folder(one))
            search.took(one, tried)
            finished[one.number] = Packed.of(tried)  # an accelerator has no room for the backbones of all tries
            del tried
        number, recommendation = search.best()
        return self._unpacked(finished[number]), recommendation

    def on(
        self, runner: Runner, compute: Compute, search: Search, *, progress: bool
    ) -> tuple[Tuned, Recommendation, tuple[str, ...]]:
        """Make tries on a cluster, as many at once as it has room for; the best, and the names of those that failed.

        Raises:
            SelectionError: no try was finished.
        """
        failures = Failures(LOGS if self.out is None else self.out / LOGS)
        training = partial(self.training, compute=compute, progress=False)
        finished: dict[int, Packed] = {}
        with reporting(progress) as report:
            model = runner.share("backbone", itself, copy.deepcopy(self.model).cpu())
            splits = runner.share("images", itself, self.splits)
            first = search.first()
            pace = Job(
                f"{self.splits.train.name}, pace of {first.config.label}",
                _slowness_there,
                (search.max_seconds, first, model, splits, compute),
            )
            for _, slowness in chain(*failures.sort_out(runner.run([pace]))):
                search.clock.slowness = slowness  # where it cannot be measured, the first try tells

            def jobs() -> Iterator[Job | None]:
                for one in search.tries():
                    if one is None:
                        yield None
                        continue
                    start = None if one.warm_start is None else files_of(one.warm_start)
                    name = f"{self.splits.train.name}, {one.config.label}, try {one.number}"
                    yield Job(name, packed_attempt, (training, model, splits, self.curves, one, start), one)

            for job, outcome in chain.from_iterable(runner.run(jobs(), early=False)):
                failure = outcome if isinstance(outcome, Failure) else self._take(search, job, outcome)
                if failure is None:
                    finished[job.about.number] = outcome
                else:
                    failures.add(failure)
                    search.failed(job.about)
                report("Tries", len(search.trials), int(min(search.most, len(first.ranking))))
        if not search.has_finished:
            failures.raise_any("no try was finished")
        number, recommendation = search.best()
        return self._unpacked(finished[number]), recommendation, tuple(failures.names)

    def _take(self, search: Search, job: Job, packed: Packed) -> Failure | None:
        """Write what came of a try, and tell the search; or what went wrong."""
        try:
            tried = packed.unpack(copy.deepcopy(self.model), self.splits, self._folder(job.about))
        except Exception as error:
            return Failure.of(job.name, error)
        search.took(job.about, tried)
        return None

    def _unpacked(self, best: Packed) -> Tuned:
        tuned = best.unpack(copy.deepcopy(self.model), self.splits, None).tuned
        return dataclasses.replace(tuned, out=self.out)

    def _folder(self, one: Try) -> Path | None:
        return None if self.out is None else self.out / f"try-{one.number}"


def check_no_tries(folder: Path) -> None:
    """Keep the tries of two runs on a cluster apart: which configuration gets which number depends on what ends first.

    Raises:
        SelectionError: the folder has some.
    """
    if any(folder.glob("try-*")):
        raise SelectionError(f"{folder} has tries of an earlier run; give another folder, or remove it")


def _slowness_there(
    max_seconds: float | None, first: Recommendation, model: nn.Module, splits: Splits, compute: Compute
) -> float:
    """`slowness_under` on the machine that it is called on, and its accelerator."""
    there = copy.deepcopy(model)
    return slowness_under(
        max_seconds, first, there.to(compute.device_for(next(there.parameters()).device)), splits, compute
    )
