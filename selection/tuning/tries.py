"""One try among several: a configuration is tuned while a watch may end it, in this process or on another machine."""

from __future__ import annotations

import copy
import dataclasses
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Protocol

from torch import nn

import adapters
from adapters import AdapterConfig, FitResult, Metrics
from selection.recommendation.learning_curves import LearningCurves
from selection.results.validation import Validation
from selection.tuning.budget import Clock, Watch
from selection.tuning.one import Tuned, merged_of, write
from task2vec import Splits

Files = dict[str, bytes]
"""A folder's files by name."""


@dataclasses.dataclass(frozen=True)
class Try:
    """What to try.

    Attributes:
        number: Counted from 1.
        config: What to tune.
        warm_start: Folder of the adapter to start from; None to start anew.
        best: Last validation accuracy of the best try that was finished before; None if there is none.
        deadline: When the time for it is over, in seconds of `time.time`; None to finish it whatever it takes. Waiting
            for a machine, or for another one where that is lost, takes from the same time.
    """

    number: int
    config: AdapterConfig
    warm_start: Path | None
    best: float | None
    deadline: float | None


@dataclasses.dataclass(frozen=True)
class Tried:
    """What came of a try.

    Attributes:
        tuned: The model and how it went.
        gave_up: Whether it was ended early.
        whole_seconds: What the whole training takes, by the epochs that were seen.
    """

    tuned: Tuned
    gave_up: bool
    whole_seconds: float


class Training(Protocol):
    """`tune_alone` with everything that all tries share."""

    def __call__(
        self,
        splits: Splits,
        model: nn.Module,
        config: AdapterConfig,
        *,
        init_from: Path | None,
        out: Path | None,
        on_epoch: Watch,
    ) -> Tuned:
        """Tune one configuration."""
        ...


def attempt(
    training: Training, model: nn.Module, splits: Splits, curves: LearningCurves | None, one: Try, out: Path | None
) -> Tried:
    """Make a try.

    Args:
        training: How.
        model: The backbone, changed in place.
        splits: The task.
        curves: What stored trials say of where trainings end; None if nothing.
        one: What to try.
        out: Folder for the result; None for nowhere.
    """
    clock = None if one.deadline is None else Clock(one.deadline - time.time())
    watch = Watch(curves, one.config, one.best, clock)
    tuned = training(splits, model, one.config, init_from=one.warm_start, out=out, on_epoch=watch)
    return Tried(tuned, watch.gave_up, watch.whole_seconds or tuned.fit.seconds)


@dataclasses.dataclass(frozen=True)
class Packed:
    """What came of a try, small enough to be kept beside many others, and as it is sent from another machine: a model
    with an adapter cannot be pickled.

    Attributes:
        adapter: What `adapters.save` wrote.
        fit: See `Tuned`.
        test: See `Tuned`.
        by_class: See `Tuned`.
        gave_up: See `Tried`.
        whole_seconds: See `Tried`.
    """

    adapter: Files
    fit: FitResult
    test: Metrics | None
    by_class: Validation | None
    gave_up: bool
    whole_seconds: float

    @classmethod
    def of(cls, tried: Tried) -> Packed:
        """The same without the backbone."""
        tuned = tried.tuned
        with TemporaryDirectory() as folder:
            adapters.save(tuned.model, Path(folder))
            files = files_of(Path(folder))
        return cls(files, tuned.fit, tuned.test, tuned.by_class, tried.gave_up, tried.whole_seconds)

    def unpack(self, model: nn.Module, splits: Splits, out: Path | None) -> Tried:
        """The try as if it had been made here.

        Args:
            model: The backbone, changed in place.
            splits: The task.
            out: Folder for the result; None for nowhere.
        """
        with TemporaryDirectory() as folder:
            tuned = adapters.load(model, folder_of(self.adapter, Path(folder))).eval()
        found = Tuned(tuned, self.fit, merged_of(tuned), out, self.test, self.by_class)
        if out is not None:
            write(found, splits, out)
        return Tried(found, self.gave_up, self.whole_seconds)


def packed_attempt(
    training: Training,
    model: nn.Module,
    splits: Splits,
    curves: LearningCurves | None,
    one: Try,
    warm_start: Files | None,
) -> Packed:
    """Make a try on another machine, which has none of this machine's folders.

    Args:
        training: See `attempt`.
        model: The backbone; it stays as it is, since other tries share it.
        splits: See `attempt`.
        curves: See `attempt`.
        one: See `attempt`.
        warm_start: The files of the adapter to start from.
    """
    with TemporaryDirectory() as folder:
        start = None if warm_start is None else folder_of(warm_start, Path(folder))
        here = dataclasses.replace(one, warm_start=start)
        return Packed.of(attempt(training, copy.deepcopy(model), splits, curves, here, None))


def files_of(folder: Path) -> Files:
    """The files in a folder."""
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


def folder_of(files: Files, folder: Path) -> Path:
    """A folder with these files."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (folder / name).write_bytes(content)
    return folder
