"""A task: labelled images with class names, from wherever they lie.

Images are decoded when they are asked for, so a task of a million files costs a list of names.
"""

from __future__ import annotations

import dataclasses
import os
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image

from task2vec.errors import TaskError, UnreadableImageError
from task2vec.images import EXTENSIONS, arrays_to_uint8, open_image, to_rgb
from task2vec.progress import reporting

SPLITS = ("train", "training", "val", "valid", "validation", "test", "testing")

READABLE_SHARE = 0.9  # a task with fewer readable images than this is refused


class ImageSource(Protocol):
    """Gives the i-th image as RGB, or raises `UnreadableImageError` with its name."""

    def __call__(self, index: int) -> Image.Image:
        """Decode image `index`."""
        ...


@dataclasses.dataclass(frozen=True)
class Task:
    """A labelled image dataset: `len(task)` images, `task[i] -> (RGB image, label)`.

    Attributes:
        name: What the task is called in stores and tables.
        labels: int64 `(N,)`, each in `[0, num_classes)`; or, where an image may be of several classes or none,
            int64 `(N, num_classes)` of 0 and 1.
        class_names: One name for each label.
        unreadable: Names of images that were left out because they could not be decoded.
        source: Where the images come from, for people to read.
    """

    name: str
    labels: npt.NDArray[np.int64]
    class_names: tuple[str, ...]
    images: ImageSource = dataclasses.field(repr=False)
    unreadable: tuple[str, ...] = ()
    source: str = ""

    def __post_init__(self) -> None:
        """Refuse tasks without images."""
        if not len(self.labels):
            raise TaskError(f"task {self.name!r} holds no images; put them in one folder per class")

    @property
    def cacheable(self) -> bool:
        """Whether an image is the same each time it is asked for, so that it need be decoded only once."""
        return True

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
        present = np.flatnonzero(self.labels.any(axis=0)) if self.multi_label else np.unique(self.labels)
        unknown = [self.class_names[c] for c in present if self.class_names[c] not in other.class_names]
        if unknown:
            raise TaskError(
                f"class {unknown[0]!r} of {self.source or self.name} is not among the {other.num_classes} classes of "
                f"{other.source or other.name}; add training images of it, or leave it out"
            )
        if self.multi_label != other.multi_label:
            raise TaskError(f"{self.name!r} and {other.name!r} must both have one label an image, or both several")
        number = {name: c for c, name in enumerate(other.class_names)}
        if self.multi_label:
            labels = np.zeros((len(self), other.num_classes), np.int64)
            for c in present:
                labels[:, number[self.class_names[c]]] = self.labels[:, c]
        else:
            labels = np.array([number.get(name, -1) for name in self.class_names], np.int64)[self.labels]
        return dataclasses.replace(self, labels=labels, class_names=other.class_names)

    @classmethod
    def from_folder(
        cls, path: str | Path, *, split: str | None = None, name: str | None = None, classes_of: Task | None = None
    ) -> Task:
        """A folder, or a zip of one, with the images of each class in a folder of the class's name.

        Args:
            path: `CLASS/*.jpg`, or `train/CLASS/*.jpg` beside other splits, or a `.zip` of either.
            split: Which of the splits to take, where there are splits; `train` if not given.
            name: What to call the task; the folder's or archive's name if not given.
            classes_of: A task, such as the training split, whose class numbers to take; this one may lack some.

        Raises:
            TaskError: nothing there, no images, one class only, no such split, or a class that `classes_of` lacks.
        """
        path = Path(path)
        if not path.exists():
            raise TaskError(f"there is no folder or zip at {path}; check the path")
        files, read = _open_folder(path) if path.is_dir() else _open_zip(path)
        images = sorted(f for f in files if _is_image(f))
        if not images:
            raise TaskError(f"no images under {path}; expected files such as CLASS/001.jpg or CLASS/001.png")
        prefix, chosen = _choose_split(images, split, path)
        inside = [f for f in images if f.startswith(prefix)]
        classes = [f[len(prefix) :].split("/")[0] if "/" in f[len(prefix) :] else "" for f in inside]
        if "" in classes:
            stray = inside[classes.index("")]
            raise TaskError(f"image {path / stray} is not in a class folder; move every image into CLASS/")
        class_names = tuple(sorted(set(classes)))
        number = {c: i for i, c in enumerate(class_names)}
        task = cls(
            name=name or _task_name(path.resolve()),
            labels=np.array([number[c] for c in classes], np.int64),
            class_names=class_names,
            images=lambda index: open_image(lambda: read(inside[index]), str(path / inside[index])),
            source=f"{path.name}/{chosen}" if chosen else path.name,
        )
        return task.learnable() if classes_of is None else task.in_classes_of(classes_of)

    @classmethod
    def from_dataset(cls, dataset: Any, *, name: str | None = None, classes_of: Task | None = None) -> Task:
        """Any map-style dataset: torchvision's, Hugging Face `datasets`, or one that gives `(image, label)`.

        Images may be PIL images, file paths' contents as arrays, or tensors; the dataset should not normalise them.
        Classes are numbered by those that occur; give the validation and test sets the training task's with
        `classes_of`.

        Raises:
            TaskError: an item is neither a pair nor a mapping with an image and a label, or has a class that
                `classes_of` lacks.
        """
        if not hasattr(dataset, "__len__") or not hasattr(dataset, "__getitem__"):
            raise TaskError(f"{type(dataset).__name__} has no length or no items by index; give a map-style dataset")
        if not len(dataset):
            raise TaskError(f"{type(dataset).__name__} is empty; give a dataset with images")
        image_key, label_key, class_names = _dataset_columns(dataset)
        labels, class_names = _labels_and_names(_dataset_labels(dataset, label_key), class_names)
        source = type(dataset).__name__
        task = cls(
            name=name or source.lower(),
            labels=labels,
            class_names=class_names,
            images=lambda index: _item_image(dataset, index, image_key),
            source=source,
        )
        return task.learnable() if classes_of is None else task.in_classes_of(classes_of)

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
        multi-label task.

        Raises:
            TaskError: shapes differ, pixels are NaN, infinite or out of range, labels are fractional or negative.
        """
        pixels = arrays_to_uint8(images if isinstance(images, torch.Tensor) else np.asarray(images))
        values = labels.detach().cpu().numpy() if isinstance(labels, torch.Tensor) else np.asarray(labels)
        if values.ndim not in (1, 2) or len(values) != len(pixels):
            raise TaskError(f"{len(pixels)} images need {len(pixels)} labels in one row, not shape {values.shape}")
        numbers, names = _labels_and_names(values, tuple(class_names) if class_names is not None else None)
        task = cls(name, numbers, names, lambda index: Image.fromarray(pixels[index]), source="arrays")
        return task.learnable() if classes_of is None else task.in_classes_of(classes_of)

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

    def _strata(self) -> list[npt.NDArray[np.int64]]:
        """The images of each class; all together where they may be of several."""
        if self.multi_label:
            return [np.arange(len(self))]
        return [np.flatnonzero(self.labels == label) for label in range(self.num_classes)]

    def select(self, indices: npt.ArrayLike, *, name: str | None = None) -> Task:
        """The task of these images only, with the same classes."""
        chosen, images = np.asarray(indices, np.int64), self.images
        return dataclasses.replace(
            self, name=name or self.name, labels=self.labels[chosen], images=lambda i: images(int(chosen[i]))
        )

    def regrouped(self, groups: Mapping[str, Sequence[int]], *, name: str | None = None) -> Task:
        """The task with new classes, each made of some of the old ones; images of the other classes are left out.

        Args:
            groups: Name of each new class, and the old classes that it is made of, each in one group at most.
            name: What to call the new task.

        Raises:
            TaskError: the task has several labels an image, or a class is unknown or in two groups.
        """
        members = [label for labels in groups.values() for label in labels]
        if self.multi_label or len(set(members)) < len(members) or not set(members) <= set(range(self.num_classes)):
            raise TaskError(
                f"classes {members} cannot make new classes of {self.name!r}; give each of its {self.num_classes} "
                "classes once at most, and one label an image"
            )
        new = np.full(self.num_classes, -1, np.int64)
        for number, labels in enumerate(groups.values()):
            new[list(labels)] = number
        kept = self.select(np.flatnonzero(new[self.labels] >= 0), name=name)
        return dataclasses.replace(kept, labels=new[kept.labels], class_names=tuple(groups)).learnable()

    def split(self, share: float, *, seed: int = 0) -> tuple[Task, Task]:
        """Two tasks, the second with about `share` of every class; a class with one image stays in the first.

        Raises:
            TaskError: no class has two images, so that nothing can be set aside.
        """
        generator = np.random.default_rng(seed)
        second = []
        for stratum in self._strata():
            members = generator.permutation(stratum)
            count = min(max(1, round(share * len(members))), len(members) - 1)
            second.append(members[: max(0, count)])
        held = np.zeros(len(self), bool)
        held[np.concatenate(second)] = True
        if len(np.unique(self.labels[held], axis=0)) < 2:
            raise TaskError(f"task {self.name!r} has too few images to set {share:.0%} aside; add images")
        return self.select(np.flatnonzero(~held)), self.select(np.flatnonzero(held))

    def subsample(self, count: int | None, *, seed: int = 0) -> Task:
        """At most `count` images, taken evenly from the classes (stratified, without replacement)."""
        if count is None or count >= len(self):
            return self
        if count < len(self._strata()):
            raise TaskError(f"{count} images cannot show the {self.num_classes} classes of {self.name!r}; take more")
        rank = np.random.default_rng(seed).permutation(len(self)).argsort()
        # The r-th image of a class of n stands at (r + 1/2) / n of its class: the first `count` by that place are
        # spread over the classes in proportion to their sizes, and every class keeps its first image.
        place = np.empty(len(self))
        for stratum in self._strata():
            members = stratum[rank[stratum].argsort()]
            place[members] = (np.arange(len(members)) + 0.5) / max(1, len(members))
            place[members[:1]] = -1.0
        return self.select(np.sort(np.argsort(place, kind="stable")[:count]))

    def readable(self, *, progress: bool = False) -> Task:
        """This task without the images that cannot be decoded, whose names are kept in `unreadable`.

        Raises:
            UnreadableImageError: fewer than 90% of the images can be decoded.
        """
        bad: dict[int, str] = {}
        with reporting(progress) as report:
            for start, _, failures in self._decode(None, 64):
                bad |= {start + offset: message for offset, message in failures.items()}
                report("Checking images", min(start + 64, len(self)), len(self))
        return self.without(bad)

    def without(self, bad: dict[int, str]) -> Task:
        """This task without the images at the keys of `bad`, whose values name them.

        Raises:
            UnreadableImageError: less than 90% of the images would be left.
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
        return left.learnable()

    def batches(
        self, transform: Callable[[Image.Image], torch.Tensor], batch_size: int
    ) -> Iterator[tuple[int, torch.Tensor, dict[int, str]]]:
        """Decoded and transformed images in order, the next batch being decoded while this one is used.

        Yields:
            The batch's first index, its readable images `(B, C, H, W)`, and a name for each offset that is unreadable.
        """
        for start, decoded, failures in self._decode(transform, batch_size):
            yield start, torch.stack(decoded) if decoded else torch.empty(0), failures

    def _decode(
        self, transform: Callable[[Image.Image], Any] | None, batch_size: int
    ) -> Iterator[tuple[int, list[Any], dict[int, str]]]:
        def one(index: int) -> Any:
            try:
                image = self.images(index)
            except UnreadableImageError as error:
                return error
            return transform(image) if transform else None

        with ThreadPoolExecutor(max_workers=2) as pool:
            starts = range(0, len(self), batch_size)
            submit = lambda s: [pool.submit(one, i) for i in range(s, min(s + batch_size, len(self)))]  # noqa: E731
            ahead = submit(0)
            for start in starts:
                current, ahead = ahead, submit(start + batch_size) if start + batch_size < len(self) else []
                results = [future.result() for future in current]
                failures = {i: str(r) for i, r in enumerate(results) if isinstance(r, UnreadableImageError)}
                yield start, [r for r in results if not isinstance(r, UnreadableImageError)], failures


def _is_image(file: str) -> bool:
    """By its extension; hidden files and folders, which editors and archivers leave behind, do not count."""
    path = PurePosixPath(file)
    return path.suffix.lower() in EXTENSIONS and not any(p.startswith((".", "__MACOSX")) for p in path.parts)


def _open_folder(path: Path) -> tuple[list[str], Callable[[str], bytes]]:
    """The names of all files below a folder, and how to read one."""
    found: list[str] = []
    visited: set[tuple[int, int]] = set()
    for folder, below, files in os.walk(path, followlinks=True):
        entry = Path(folder).stat()
        if (entry.st_dev, entry.st_ino) in visited:  # a link to a folder that was read, or to one around it
            below.clear()
            continue
        visited.add((entry.st_dev, entry.st_ino))
        below.sort()
        found += [(Path(folder) / file).relative_to(path).as_posix() for file in files]
    return found, lambda name: (path / name).read_bytes()


def _open_zip(path: Path) -> tuple[list[str], Callable[[str], bytes]]:
    """The names of all files in a zip, and how to read one. Nothing is extracted; reads may come from any thread."""
    try:
        archive = zipfile.ZipFile(path)
    except (zipfile.BadZipFile, OSError) as error:
        raise TaskError(f"{path} is neither a folder nor a zip of one ({error})") from error
    return [i.filename for i in archive.infolist() if not i.is_dir()], archive.read


def _task_name(path: Path) -> str:
    """The folder's or archive's name; for the folder of a split, that of the folder around it."""
    if path.is_dir():
        return path.parent.name if path.name in SPLITS else path.name
    return path.stem


def _choose_split(files: list[str], split: str | None, path: Path) -> tuple[str, str | None]:
    """The prefix under which the class folders lie, and the split's name if there are splits."""
    prefix = ""
    while True:
        tops = {f[len(prefix) :].split("/")[0] for f in files}
        nested = all(f[len(prefix) :].count("/") >= 2 for f in files)
        splits = sorted(t for t in tops if t.lower() in SPLITS)
        if splits and nested and len(splits) == len(tops):
            wanted = split or ("train" if "train" in splits else splits[0])
            if wanted not in splits:
                raise TaskError(f"{path} has no split {wanted!r}; it has {', '.join(splits)}")
            return f"{prefix}{wanted}/", wanted
        if len(tops) > 1 or not nested:
            if split is not None:
                raise TaskError(f"{path} has no split {split!r}: its folders are classes; leave split out")
            return prefix, None
        prefix += f"{tops.pop()}/"


def _labels_and_names(
    values: npt.NDArray[Any], class_names: tuple[str, ...] | None
) -> tuple[npt.NDArray[np.int64], tuple[str, ...]]:
    """Labels as a task holds them, of one class an image or of several, and the classes' names."""
    if values.ndim == 1:
        return _contiguous_labels(values, class_names)
    wrong = ~np.isin(values, (0, 1))
    if wrong.any():
        row, column = np.argwhere(wrong)[0]
        raise TaskError(f"label {row} has {values[row, column]} for class {column}; labels in rows must be 0 or 1")
    names = class_names or tuple(str(c) for c in range(values.shape[1]))
    if len(names) != values.shape[1]:
        raise TaskError(f"labels are of {values.shape[1]} classes, but {len(names)} class names are given")
    return values.astype(np.int64), names


def _contiguous_labels(
    values: npt.NDArray[Any], class_names: tuple[str, ...] | None
) -> tuple[npt.NDArray[np.int64], tuple[str, ...]]:
    """Labels as 0..C-1 and a name for each. With `class_names`, integer labels index them."""
    if np.issubdtype(values.dtype, np.floating):
        fractional = ~(np.isfinite(values) & (values == np.floor(values)))
        if fractional.any():
            at = int(fractional.argmax())
            raise TaskError(f"label {at} is {values[at]}; labels must be class numbers or names, not measurements")
        values = values.astype(np.int64)
    if np.issubdtype(values.dtype, np.integer) and (values < 0).any():
        at = int((values < 0).argmax())
        raise TaskError(f"label {at} is {values[at]}; remove unlabelled images or number classes from 0")
    distinct, numbers = np.unique(values.astype(str) if values.dtype == object else values, return_inverse=True)
    if class_names is None:
        return numbers.astype(np.int64), tuple(str(v) for v in distinct)
    if np.issubdtype(values.dtype, np.integer):
        if len(distinct) and distinct[-1] >= len(class_names):
            raise TaskError(f"label {distinct[-1]} has no name: only {len(class_names)} class names are given")
        return numbers.astype(np.int64), tuple(class_names[int(v)] for v in distinct)
    return numbers.astype(np.int64), tuple(str(v) for v in distinct)


def _dataset_columns(dataset: Any) -> tuple[Any, Any, tuple[str, ...] | None]:
    """The keys of image and label in an item, and the class names if the dataset knows them."""
    first = dataset[0]
    if isinstance(first, (tuple, list)) and len(first) >= 2:
        changed = getattr(dataset, "target_transform", None) is not None  # to labels that the names do not belong to
        names = None if changed else getattr(dataset, "classes", None)
        return 0, 1, tuple(str(n) for n in names) if names is not None else None
    if isinstance(first, dict):
        image_key = next((k for k in ("image", "img", "pixel_values") if k in first), None)
        label_key = next((k for k in ("label", "labels", "fine_label", "target", "class") if k in first), None)
        if image_key and label_key:
            feature = (getattr(dataset, "features", None) or {}).get(label_key)
            names = getattr(feature, "names", None)
            return image_key, label_key, tuple(names) if names else None
        raise TaskError(f"items have the columns {', '.join(map(str, first))}; name them 'image' and 'label'")
    raise TaskError(f"items are {type(first).__name__}; give (image, label) pairs or {{'image': ..., 'label': ...}}")


def _dataset_labels(dataset: Any, label_key: Any) -> npt.NDArray[Any]:
    """All labels, from the column or attribute that holds them where there is one, else item by item."""
    if isinstance(label_key, str) and hasattr(dataset, "column_names"):
        return np.asarray(dataset[label_key])
    change = getattr(dataset, "target_transform", None) or (lambda label: label)
    for attribute in ("targets", "labels", "_labels"):
        found = getattr(dataset, attribute, None)
        if found is not None and len(found) == len(dataset):
            return np.asarray([_plain_label(change(_plain_label(label))) for label in found])
    return np.asarray([_plain_label(dataset[i][label_key]) for i in range(len(dataset))])


def _plain_label(label: Any) -> Any:
    return np.asarray(label)[()] if isinstance(label, (torch.Tensor, np.generic)) else label


def _item_image(dataset: Any, index: int, image_key: Any) -> Image.Image:
    image = dataset[index][image_key]
    if isinstance(image, Image.Image):
        return to_rgb(image)
    if isinstance(image, (np.ndarray, torch.Tensor)):
        return Image.fromarray(arrays_to_uint8(image[None])[0])
    raise TaskError(f"image {index} is a {type(image).__name__}; give PIL images, arrays or tensors")
