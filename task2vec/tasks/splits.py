"""All splits of a dataset with one label space."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from task2vec.errors import TaskError
from task2vec.tasks.copies import tell_of_copies
from task2vec.tasks.folder import read_folder_splits
from task2vec.tasks.sources import LabelledImages
from task2vec.tasks.split_names import TEST, TRAIN, VALIDATION
from task2vec.tasks.table import ENDINGS, read_table_splits
from task2vec.tasks.task import Task


@dataclasses.dataclass(frozen=True)
class Splits:
    """The parts of a dataset, whose labels mean the same classes.

    Attributes:
        train: Images to learn from.
        validation: Images that choose, such as the epoch to keep; None if there are none.
        test: Images that give the score; None if there are none.

    Raises:
        TaskError: images to choose by or to score on are of a class that those to learn from lack, or have several
            labels where those have one.
    """

    train: Task
    validation: Task | None = None
    test: Task | None = None

    def __post_init__(self) -> None:
        """Give all parts the class numbers of the training images, by the classes' names."""
        for part in ("validation", "test"):
            task: Task | None = getattr(self, part)
            if task is not None:
                object.__setattr__(self, part, task.in_classes_of(self.train))

    def __str__(self) -> str:
        """What was read, as in `train: 120 images in 4 classes; val: 20 images in 4 classes`."""
        named = ((TRAIN, self.train), (VALIDATION, self.validation), (TEST, self.test))
        return "; ".join(f"{name}: {task.summary()}" for name, task in named if task is not None)


def read_splits(path: str | Path, *, name: str | None = None, **columns: Any) -> Splits:
    """Read a folder, a zip or a table into all of its splits.

    The classes are those of the training split. Where there are no splits, everything is for training. A `TaskWarning`
    tells of image files that lie in two splits with the same content.

    Args:
        path: What `Task.from_folder` or `Task.from_table` reads.
        name: What to call the tasks; the folder's, archive's or table's name if not given.
        columns: For a table, `root`, `file`, `label` and `separator` of `Task.from_table`.

    Raises:
        TaskError: as `Task.from_folder` and `Task.from_table`; there is no training split; or another split has a
            class that it lacks.
    """
    found = _read(Path(path), **columns)
    if TRAIN not in found:
        raise TaskError(f"{path} has no training split; it has {', '.join(i.source for i in found.values())}")
    tell_of_copies(found)
    train = Task.of(found.pop(TRAIN), name=name)
    others = {role: Task.of(images, name=name, classes_of=train) for role, images in found.items()}
    return Splits(train, others.get(VALIDATION), others.get(TEST))


def read_task(
    path: str | Path, *, split: str | None = None, name: str | None = None, separator: str | None = None
) -> Task:
    """A folder, a zip or a table as a task, or one of its splits: the training split if none is named.

    Raises:
        TaskError: as `Task.from_folder` and `Task.from_table`; or a separator is given for what is no table.
    """
    if _is_table(Path(path)):
        return Task.from_table(path, split=split, name=name, separator=separator)
    if separator is not None:
        raise TaskError(f"separator={separator!r} is of a table, but {path} is none")
    return Task.from_folder(path, split=split, name=name)


def read_to_measure(path: str | Path, *, separator: str | None = None) -> Task:
    """The labelled images of a folder, a zip or a table that tell how good a model is: the test split, else the
    validation split, else all; images of a single class will do.

    Raises:
        TaskError: as `Task.from_folder` and `Task.from_table`; or a separator is given for what is no table.
    """
    found = _read(Path(path), separator=separator)
    return Task.as_found(next(found[role] for role in (TEST, VALIDATION, TRAIN) if role in found))


def _is_table(path: Path) -> bool:
    return path.suffix.lower() in ENDINGS and not path.is_dir()


def _read(path: Path, **columns: Any) -> dict[str, LabelledImages]:
    """The images of every split; all of them as the training split where there are no splits."""
    columns = {name: value for name, value in columns.items() if value is not None}
    if _is_table(path):
        root = columns.pop("root", None)
        table = read_table_splits(path, root=None if root is None else Path(root), **columns)
        return {role or TRAIN: images for role, images in table.items()}
    if columns:
        raise TaskError(f"{', '.join(columns)} {'is' if len(columns) == 1 else 'are'} of a table, but {path} is none")
    return read_folder_splits(path)
