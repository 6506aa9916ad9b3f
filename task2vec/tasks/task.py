"""A task: labelled images with class names, from wherever they lie.

Images are decoded when they are asked for, so a task of a million files costs a list of names.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image

from task2vec.errors import TaskError, UnreadableImageError
from task2vec.progress import Report, reporting
from task2vec.tasks import labels as label_spaces
from task2vec.tasks import splitting
from task2vec.tasks.arrays import read_arrays
from task2vec.tasks.datasets import read_dataset
from task2vec.tasks.decoded import decode
from task2vec.tasks.folder import read_folder
from task2vec.tasks.names import read_names
from task2vec.tasks.preprocessing import Resize, Transform, stages
from task2vec.tasks.reading import Prepare, ResizedImages, Workers, num_workers, read, stacked
from task2vec.tasks.room import MEMORY_SHARE, room_for
from task2vec.tasks.sources import ImageSource, LabelledImages, Selected
from task2vec.tasks.table import read_table

READABLE_SHARE = 0.9  # a task with fewer readable images than this is refused
CHECKED_AT_ONCE = 16  # images that a worker tries together


@dataclasses.dataclass(frozen=True)
class Task:
    """A labelled image dataset: `len(task)` images, `task[i] -> (RGB image, label)`.

    It is a map-style dataset that torch's `DataLoader` takes, in workers too.

    Attributes:
        name: What the task is called in stores and tables.
        labels: int64 `(N,)`, each in `[0, num_classes)`; or, where an image may be of several classes or none,
            int64 `(N, num_classes)` of 0 and 1.
        class_names: One name for each label, with composed accents, whatever the spelling in which they were given.
        images: Where the images come from.
        unreadable: Names of images that were left out because they could not be decoded.
        source: Where the images come from, for people to read.
        skipped: Names of files that were passed over, as they are no images or in no class.
    """

    name: str
    labels: npt.NDArray[np.int64]
    class_names: tuple[str, ...]
    images: ImageSource = dataclasses.field(repr=False)
    unreadable: tuple[str, ...] = ()
    source: str = ""
    skipped: tuple[str, ...] = dataclasses.field(default=(), repr=False)

    def __post_init__(self) -> None:
        """Refuse tasks without images, labels of no class, and classes that their names do not tell apart."""
        object.__setattr__(self, "class_names", tuple(map(label_spaces.spelled, self.class_names)))
        if not len(self.labels):
            raise TaskError(f"task {self.name!r} holds no images; put them in one folder per class")
        if len(set(self.class_names)) < len(self.class_names):
            twice = next(name for name in self.class_names if self.class_names.count(name) > 1)
            raise TaskError(f"two classes of task {self.name!r} are called {twice!r}; give each a name of its own")
        if self.multi_label and self.labels.shape[1] != self.num_classes:
            raise TaskError(
                f"labels of task {self.name!r} are of {self.labels.shape[1]} classes, but it has {self.num_classes} "
                "class names; give a name for each"
            )
        highest = 1 if self.multi_label else self.num_classes - 1
        odd = np.argwhere((self.labels < 0) | (self.labels > highest))
        if len(odd):
            raise TaskError(
                f"the label of image {odd[0][0]} of task {self.name!r} is {self.labels[tuple(odd[0])]}; labels must be "
                f"whole numbers from 0 to {highest}"
            )

    def __repr__(self) -> str:
        return f"Task({self.name!r}, {self.summary()}, from {self.source or 'elsewhere'})"

    @classmethod
    def from_folder(
        cls, path: str | Path, *, split: str | None = None, name: str | None = None, classes_of: Task | None = None
    ) -> Task:
        """A folder, or a zip of one, with the images of each class in a folder of the class's name.

        Args:
            path: `CLASS/*.jpg`, or `train/CLASS/*.jpg` beside other splits, or a `.zip` of either. Splits may be
                called `train` or `training`, `val`, `valid`, `validation` or `dev`, `test` or `testing`, in any case.
            split: Which of the splits to take, in any spelling, where there are splits; `train` if not given.
            name: What to call the task; the folder's or archive's name if not given.
            classes_of: A task, such as the training split, whose class numbers to take; this one may lack some.

        Raises:
            TaskError: nothing there, no images, one class only, no such split, a folder that is neither split nor
                class, or a class that `classes_of` lacks.
        """
        return cls.of(read_folder(Path(path), split), name=name, classes_of=classes_of)

    @classmethod
    def from_names(
        cls, path: str | Path, pattern: str, *, name: str | None = None, classes_of: Task | None = None
    ) -> Task:
        r"""A folder, or a zip of one, with images whose files' names tell their classes.

        Args:
            path: The folder or zip; images may lie at any depth.
            pattern: A regular expression for the start of a file's name. Its group, or the one named `label`, is the
                class, as in `(.+)_\d+`. Files that it does not fit are passed over.
            name: What to call the task; the folder's or archive's name if not given.
            classes_of: A task whose class numbers to take; this one may lack some.

        Raises:
            TaskError: nothing there, no images, one class only, a pattern without a group or that fits no file.
        """
        return cls.of(read_names(Path(path), pattern), name=name, classes_of=classes_of)

    @classmethod
    def from_table(
        cls,
        path: str | Path,
        *,
        root: str | Path | None = None,
        file: str | None = None,
        label: str | None = None,
        separator: str | None = None,
        split: str | None = None,
        name: str | None = None,
        classes_of: Task | None = None,
    ) -> Task:
        """A CSV, TSV or Parquet table with a row for each image: its file, its label, and perhaps its split.

        Args:
            path: The table; Parquet needs pyarrow.
            root: Folder or zip that the files' names are relative to; the table's own folder if not given.
            file: Name of the column of the files; a usual one such as `file` or `filename` if not given.
            label: Name of the column of the labels; a usual one such as `label` or `class` if not given.
            separator: What stands between several labels of an image, as in `oak|ash`; makes a multi-label task.
            split: Which split to take, where there is a column `split`; `train` if not given.
            name: What to call the task; the table's name if not given.
            classes_of: A task whose class numbers to take; this one may lack some.

        Raises:
            TaskError: the table cannot be read, lacks a column, has a row without a label, names a file twice, or
                none of its files exists.
        """
        own_root = None if root is None else Path(root)
        found = read_table(Path(path), root=own_root, file=file, label=label, separator=separator, split=split)
        return cls.of(found, name=name, classes_of=classes_of)

    @classmethod
    def from_dataset(cls, dataset: Any, *, name: str | None = None, classes_of: Task | None = None) -> Task:
        """Any map-style dataset: torchvision's, Hugging Face `datasets`, or one that gives `(image, label)`.

        Images may be PIL images, file paths' contents as arrays, or tensors; the dataset should not normalise them.
        Classes are numbered by those that occur; give the validation and test sets the training task's with
        `classes_of`. Class names are found through torch's `Subset` and `ConcatDataset` too.

        Raises:
            TaskError: an item is neither a pair nor a mapping with an image and a label, or has a class that
                `classes_of` lacks.
        """
        return cls.of(read_dataset(dataset), name=name, classes_of=classes_of)

    @classmethod
    def from_arrays(
        cls,
        images: npt.ArrayLike | torch.Tensor,
        labels: npt.ArrayLike | torch.Tensor,
        *,
        class_names: Sequence[str] | None = None,
        name: str = "arrays",
        classes_of: Task | None = None,
    ) -> Task:
        """Images `(N, H, W)`, `(N, H, W, C)` or `(N, C, H, W)`, uint8 or float in [0, 1], and N labels.

        Labels may have gaps or be strings: each distinct value is one class. Labels `(N, classes)` of 0 and 1 make a
        multi-label task. `class_names` are indexed by numbers, False and True, or columns; strings must be among them.

        Raises:
            TaskError: shapes differ, pixels are NaN, infinite or out of range, labels are fractional, negative or not
                among the names.
        """
        return cls.of(read_arrays(images, labels, class_names), name=name, classes_of=classes_of)

    @classmethod
    def of(cls, found: LabelledImages, *, name: str | None = None, classes_of: Task | None = None) -> Task:
        """The task of what a reader found.

        Raises:
            TaskError: no images, one class only, or a class that `classes_of` lacks.
        """
        task = cls.as_found(found, name=name)
        return task.learnable() if classes_of is None else task.in_classes_of(classes_of)

    @classmethod
    def as_found(cls, found: LabelledImages, *, name: str | None = None) -> Task:
        """The same, of one class too: to be measured on, if not to learn from."""
        return cls(name or found.name, found.labels, found.class_names, found.images, (), found.source, found.skipped)

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Image.Image, Any]:
        return self.images(index), self.labels[index] if self.multi_label else int(self.labels[index])

    @property
    def num_classes(self) -> int:
        """How many classes there are."""
        return len(self.class_names)

    @property
    def multi_label(self) -> bool:
        """Whether an image may be of several classes or none."""
        return self.labels.ndim == 2

    @property
    def cacheable(self) -> bool:
        """Whether an image is the same each time it is asked for, so that it need be decoded only once."""
        return True

    @property
    def in_memory(self) -> bool:
        """Whether an image costs no reading and decoding."""
        return self.images.in_memory

    def summary(self) -> str:
        """How much there is, as in `120 images in 4 classes`, with classes that have no image, and what was passed
        over.
        """
        present = label_spaces.present_classes(self.labels)
        absent = [self.class_names[c] for c in np.setdiff1d(np.arange(self.num_classes), present)]
        if absent:
            more = f" and {len(absent) - 3} more" if len(absent) > 3 else ""
            counts = (
                f"{len(self)} images in {len(present)} of {self.num_classes} classes, "
                f"none of {', '.join(map(repr, absent[:3]))}{more}"
            )
        else:
            counts = f"{len(self)} images in {len(present)} classes"
        left = [
            f"{len(names)} {what}"
            for names, what in ((self.unreadable, "unreadable"), (self.skipped, "other files skipped"))
            if names
        ]
        return f"{counts} ({', '.join(left)})" if left else counts

    def learnable(self) -> Task:
        """This task, if there is something to tell apart.

        Raises:
            TaskError: all images have the same label.
        """
        if self.multi_label:
            if not (self.labels != self.labels[0]).any():
                raise TaskError(
                    f"all images of task {self.name!r} have the same labels; there is nothing to tell apart"
                )
            return self
        present = np.unique(self.labels)
        if len(present) < 2:
            only = self.class_names[int(present[0])]
            raise TaskError(f"task {self.name!r} has only one class ({only!r}); at least two are needed to tell apart")
        return self

    def in_classes_of(self, other: Task) -> Task:
        """This task with the class numbers of another one, such as a test split with those of the training split.

        Classes are matched by their names. This task need not have all of them.

        Raises:
            TaskError: this task has a class that the other one lacks, or one of both has several labels an image.
        """
        present = label_spaces.present_classes(self.labels)
        unknown = [self.class_names[c] for c in present if self.class_names[c] not in other.class_names]
        if unknown:
            raise TaskError(
                f"class {unknown[0]!r} of {self.source or self.name} is not among the {other.num_classes} classes of "
                f"{other.source or other.name}; add training images of it, or leave it out"
            )
        if self.multi_label != other.multi_label:
            raise TaskError(f"{self.name!r} and {other.name!r} must both have one label an image, or both several")
        labels = label_spaces.renumbered(self.labels, self.class_names, other.class_names)
        return dataclasses.replace(self, labels=labels, class_names=other.class_names)

    def select(self, indices: npt.ArrayLike, *, name: str | None = None) -> Task:
        """The task of these images only, with the same classes.

        Args:
            indices: Numbers of images, in any order; or for each image whether it is wanted.
            name: What to call the new task.

        Raises:
            TaskError: they are neither, or there is no such image.
        """
        chosen = self._numbers(np.asarray(indices))
        images = Selected(self.images, chosen)
        return dataclasses.replace(self, name=name or self.name, labels=self.labels[chosen], images=images)

    def _numbers(self, indices: npt.NDArray[Any]) -> npt.NDArray[np.int64]:
        if indices.dtype == bool and indices.shape == (len(self),):
            return np.flatnonzero(indices)
        if indices.ndim != 1 or (len(indices) and indices.dtype.kind not in "iu"):
            raise TaskError(
                f"indices of {indices.dtype} and shape {indices.shape} name no images; give whole numbers, or a truth "
                f"value for each of {len(self)}"
            )
        odd = indices[(indices < -len(self)) | (indices >= len(self))]
        if len(odd):
            raise TaskError(f"{self.name!r} has {len(self)} images, numbered from 0, and none of number {odd[0]}")
        return indices.astype(np.int64) % max(1, len(self))

    def regrouped(self, groups: Mapping[str, Sequence[int]], *, name: str | None = None) -> Task:
        """The task with new classes, each made of some of the old ones; images of the other classes are left out.

        Args:
            groups: Name of each new class, and the old classes that it is made of, each in one group at most.
            name: What to call the new task.

        Raises:
            TaskError: the task has several labels an image, or a class is unknown or in two groups.
        """
        try:
            new = label_spaces.grouped(self.labels, self.num_classes, groups)
        except ValueError as error:
            raise TaskError(
                f"{error} of {self.name!r}; give each of its {self.num_classes} classes once at most, and one label an "
                "image"
            ) from error
        kept = self.select(np.flatnonzero(new >= 0), name=name)
        return dataclasses.replace(kept, labels=new[new >= 0], class_names=tuple(groups)).learnable()

    def split(self, share: float, *, seed: int = 0) -> tuple[Task, Task]:
        """Two tasks, the second with about `share` of every class; a class with one image stays in the first.

        Raises:
            TaskError: the share is none, the seed is below 0, or no class has two images, so that nothing can be set
                aside.
        """
        if not 0 < share < 1 or seed < 0:
            raise TaskError(f"share={share} must lie between 0 and 1, and seed={seed} must be a whole number from 0 on")
        held = splitting.held_out(splitting.strata(self.labels, self.num_classes), share, seed)
        if len(np.unique(self.labels[held], axis=0)) < 2:
            raise TaskError(
                f"task {self.name!r} has too few images to set {share:.0%} aside, {self._scarce()}; add images, or "
                "give those to choose by as a split of their own, such as a folder val/ beside train/"
            )
        return self.select(np.setdiff1d(np.arange(len(self)), held)), self.select(held)

    def _scarce(self) -> str:
        """What keeps the task from being split: classes of a single image, or too few images with other labels."""
        if self.multi_label:
            return "as those set aside would all have the same labels"
        names = [self.class_names[c] for c in np.flatnonzero(np.bincount(self.labels) == 1)]
        if not names:
            return "all of one class"
        more = f" and {len(names) - 3} more" if len(names) > 3 else ""
        return f"with a single one of {', '.join(map(repr, names[:3]))}{more}"

    def subsample(self, count: int | None, *, seed: int = 0) -> Task:
        """At most `count` images, taken evenly from the classes (stratified, without replacement).

        Raises:
            TaskError: that is fewer than one of each class.
        """
        if count is not None and not (count >= 1 and count == np.floor(count)):
            raise TaskError(f"{count} images cannot be drawn from {self.name!r}; take 1 or more, or None for all")
        if count is None or count >= len(self):
            return self
        parts = [part for part in splitting.strata(self.labels, self.num_classes) if len(part)]
        if count < len(parts):
            raise TaskError(f"{count} images cannot show the {len(parts)} classes of {self.name!r}; take more")
        return self.select(splitting.spread_evenly(parts, int(count), seed))

    def stages(self, transform: Transform) -> tuple[Callable[[int], Image.Image], Transform]:
        """A network's preprocessing in two stages, both picklable, of which the first makes use of what is kept.

        With `resized, finish = task.stages(transform)`, `finish(resized(i))` is `transform(task[i][0])`, bit by bit.
        Training augments what `resized` gives.
        """
        resize, finish = stages(transform)
        return ResizedImages(self.images, resize), finish

    def decoded(
        self,
        *transforms: Transform,
        memory: float = MEMORY_SHARE,
        workers: Workers = "auto",
        progress: bool | Report = False,
    ) -> Task:
        """This task with each image decoded once, for all who are going to read it.

        Pixels are kept as uint8 after the resize of each transform, before any crop or augmentation, so that every
        tensor made of them is the one that would be made of the file. What can be read only once is read here: images
        that cannot be decoded are left out, and named in `unreadable`.

        Args:
            transforms: The preprocessing of the networks that will read the task, such as `probe.transform` and
                `adapters.data.transform_of(model)`; without any, whole images are kept.
            memory: The share of the machine's memory that pixels may take. What is beyond goes to a temporary file,
                which is removed with the task; what is beyond half of the free space there is not kept.
            workers: Processes that decode.
            progress: Show a progress bar on standard error; or a function to report to.

        Raises:
            UnreadableImageError: fewer than 90% of the images can be decoded, or none of some class.
        """
        task, bad = self.decode(*transforms, memory=memory, workers=workers, progress=progress)
        return task.without(bad)

    def decode(
        self,
        *transforms: Transform,
        memory: float = MEMORY_SHARE,
        workers: Workers = "auto",
        progress: bool | Report = False,
    ) -> tuple[Task, dict[int, str]]:
        """What `decoded` does, before images that cannot be decoded are left out: all images, and a message for each
        of those by its number.
        """
        resizes = {resize.key: resize for resize in (stages(transform)[0] for transform in transforms)}
        resizes = resizes or {Resize().key: Resize()}
        if all(self.images.keeps(resize) for resize in resizes.values()):
            return self, {}
        processes = num_workers(workers, len(self) // CHECKED_AT_ONCE, cheap=self.in_memory)
        with reporting(progress) as report:
            images, bad = decode(
                self.images, len(self), tuple(resizes.values()), room_for(memory), workers=processes, report=report
            )
        return dataclasses.replace(self, images=images), bad

    def readable(self, *, workers: Workers = "auto", progress: bool | Report = False) -> Task:
        """This task without the images that cannot be decoded, whose names are kept in `unreadable`.

        To read the task again afterwards, `decoded` does the same and keeps what it read.

        Raises:
            UnreadableImageError: fewer than 90% of the images can be decoded, or none of some class.
        """
        bad: dict[int, str] = {}
        processes = num_workers(workers, len(self) // CHECKED_AT_ONCE, cheap=self.in_memory)
        with reporting(progress) as report:
            for start, _, failures in read(self.images, len(self), CHECKED_AT_ONCE, len, workers=processes):
                bad |= {start + offset: message for offset, message in failures.items()}
                report("Checking images", min(start + CHECKED_AT_ONCE, len(self)), len(self))
        return self.without(bad)

    def without(self, bad: Mapping[int, str]) -> Task:
        """This task without the images at the keys of `bad`, whose values name them.

        Raises:
            UnreadableImageError: less than 90% of the images would be left, or none of some class.
            TaskError: those left are all of one class.
        """
        if not bad:
            return self
        share = 1 - len(bad) / len(self)
        if share < READABLE_SHARE:
            first = ", ".join(list(bad.values())[:3])
            raise UnreadableImageError(
                f"{len(bad)} of {len(self)} images of task {self.name!r} cannot be read, such as {first}; "
                f"at least {READABLE_SHARE:.0%} must be fine"
            )
        keep = np.setdiff1d(np.arange(len(self)), np.fromiter(bad, np.int64))
        left = dataclasses.replace(self.select(keep), unreadable=self.unreadable + tuple(bad.values()))
        lost = np.setdiff1d(label_spaces.present_classes(self.labels), label_spaces.present_classes(left.labels))
        if not len(lost):
            return left  # a test split may have had a single class before
        if len(label_spaces.present_classes(left.labels)) > 1:
            raise UnreadableImageError(
                f"class {self.class_names[lost[0]]!r} of task {self.name!r} has no readable image left: "
                f"{next(iter(bad.values()))}"
            )
        return left.learnable()

    def batches(
        self, transform: Transform, batch_size: int, *, workers: Workers = "auto", pin: bool = False
    ) -> Iterator[tuple[int, torch.Tensor, dict[int, str]]]:
        """Decoded and transformed images in order, the next batches being read while this one is used.

        Args:
            transform: RGB image to tensor `(C, H, W)`.
            batch_size: Images at once.
            workers: Processes that read.
            pin: Put batches where an accelerator can fetch them by itself.

        Yields:
            The batch's first index, its readable images `(B, C, H, W)`, and a name for each offset that is unreadable.
        """
        processes = num_workers(workers, -(-len(self) // batch_size), cheap=self.in_memory and not pin)
        prepare = Prepare(self.images, *stages(transform))
        yield from read(prepare, len(self), batch_size, stacked, workers=processes, pin=pin)
