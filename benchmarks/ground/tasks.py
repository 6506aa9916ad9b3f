"""Every task of the ground: its group, its source, and its images for training and for the test.

The groups are VTAB's: natural (photographs of everyday things), specialised (medical pictures, materials, characters,
faces, signs: other kinds of images), structured (where, how many, which way). Tasks of one source are never
independent.
"""

from __future__ import annotations

import dataclasses
from functools import cached_property
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from task2vec import Task
from task2vec.tasks.sources import ImageSource

from .derived import CHANGES, derive
from .structured import IMAGE_SETS, draw

TRAIN_POOL, TEST_IMAGES = 1_900, 1_000  # of a drawn task; and the most test images of any
VALIDATION_SHARE = 0.2  # of the labelled images, as `task2vec tune` sets aside
MOST_CLASSES_OF_100 = 25  # a task with more classes would have less than four images of each

NATURAL = (
    "birds6", "caltech101", "cifar10", "clothing10", "dogs_cats", "flowers17", "fruits40", "hcaptcha", "intel_scenes",
    "monkeys10", "natural_images", "pizza_icecream", "popular_animals", "tin_birds", "tin_cats", "tin_clothing",
    "tin_dogs", "tin_herps", "tin_insects", "tin_marine", "tin_produce", "tin_scenes", "tin_vehicles", "trees5",
    "weather4",
)  # fmt: skip
SPECIALISED = (
    "asl_mnst", "att_faces", "blood_cells", "brodatz32", "busi", "celebrities5", "chars74k", "chest_xray",
    "chicken_droppings", "ck48", "coil20", "cyrillic", "elpv_solar", "face_mask", "facial_expressions", "fer2013",
    "fruit_shapes", "fundus4", "gtsrb", "gujarati_digits", "hand_shapes", "isl_signs", "jordan_coins", "magnetic_tile",
    "math_symbols", "mnist", "neu_steel", "playing_cards", "pokemon", "potato_leaf", "printed_digits", "rsscn7",
    "sign_digits", "smiles", "utk_gender", "virtual_signs",
)  # fmt: skip
DERIVED = (
    ("cifar10", "rotation"), ("cifar10", "blur"), ("cifar10", "exposure"),
    ("intel_scenes", "jigsaw"), ("intel_scenes", "exposure"), ("intel_scenes", "rotation"),
    ("popular_animals", "rotation"), ("popular_animals", "jigsaw"),
    ("chars74k", "mirrored"), ("chars74k", "rotation"),
    ("pokemon", "blur"), ("playing_cards", "mirrored"),
)  # fmt: skip

SPLIT_BY_ORIGIN = frozenset(
    {
        "asl_mnst", "att_faces", "blood_cells", "brodatz32", "ck48", "coil20", "cyrillic", "face_mask", "hand_shapes",
        "isl_signs", "pizza_icecream", "potato_leaf",
    }
)  # fmt: skip
"""Tasks whose splits keep a person, an object or a take on one side: their test images are the test split's alone."""


@dataclasses.dataclass(frozen=True)
class GroundTask:
    """A task of the ground; its images are read when they are asked for.

    Attributes:
        name: Such as `mnist`, `scenes: count` or `cifar10: rotation`.
        group: natural, specialised or structured.
        source: Where its images come from.
        datasets: Folder of the real tasks' zips.
    """

    name: str
    group: str
    source: str
    datasets: Path

    @property
    def base(self) -> str:
        """The collection of images."""
        return self.name.split(": ")[0]

    @property
    def label_set(self) -> str:
        """Which labels of the collection; empty for its own classes."""
        return self.name.partition(": ")[2]

    @cached_property
    def num_classes(self) -> int:
        """How many classes it has."""
        if self.base in IMAGE_SETS:
            return len(IMAGE_SETS[self.base][1][self.label_set])
        return len(CHANGES[self.label_set][1]) if self.label_set else self.split("train").num_classes

    def split(self, split: str) -> Task:
        """All its labelled images of `train` or `test`."""
        if self.base in IMAGE_SETS:
            is_test = split == "test"
            drawn = draw(self.base, TEST_IMAGES if is_test else TRAIN_POOL, seed=int(is_test))
            labels, classes = drawn.labels[self.label_set], drawn.classes[self.label_set]
            names = [classes[label] for label in labels]
            task = Task.from_arrays(drawn.images, names, class_names=sorted(classes), name=self.name)
        else:
            task = Task.from_folder(self.datasets / f"{self.base}.zip", split=split)
            task = derive(task, self.label_set, seed=int(split == "test")) if self.label_set else task
        return dataclasses.replace(task, name=self.name)

    def labelled(self, images: int, seed: int) -> Task:
        """What a user who trains on so many images would have: these and a quarter as many to validate with."""
        pool = self.split("train")
        return pool.select(self._chosen(pool, images, seed), name=f"{self.name}@{images}")

    def _chosen(self, pool: Task, images: int, seed: int) -> npt.NDArray[np.int64]:
        return balanced(pool, round(images / (1 - VALIDATION_SHARE)), seed)

    def draw(self, images: int, seed: int) -> tuple[Task, Task, Task]:
        """Training images (as many as asked for, or what there is), validation images (a quarter as many), and test.

        The test images are the test split's and, where splits need not keep anything apart, the training images that
        were not drawn; they play no part in training.
        """
        pool, test = self.split("train"), self.split("test")
        chosen = self._chosen(pool, images, seed)
        unused = np.random.default_rng(seed).permutation(np.setdiff1d(np.arange(len(pool)), chosen))
        unused = unused[: 0 if self.base in SPLIT_BY_ORIGIN else max(0, TEST_IMAGES - len(test))]
        if len(unused):
            test = _joined(test, pool.select(unused))
        test = test.select(balanced(test, TEST_IMAGES, 0))
        train, validation = pool.select(chosen, name=f"{self.name}@{images}").split(VALIDATION_SHARE, seed=seed)
        return train, validation, test


def ground(datasets: Path) -> list[GroundTask]:
    """All tasks, the groups in turn, so that every beginning of the list has tasks of each."""
    drawn = [(f"{base}: {label}", base) for base, (_, classes) in IMAGE_SETS.items() for label in classes]
    derived = [(f"{base}: {label}", base) for base, label in DERIVED]
    structured = [
        pair for k in range(max(len(drawn), len(derived))) for pair in (*drawn[k : k + 1], *derived[k : k + 1])
    ]
    groups = {
        "natural": [(name, "tin" if name.startswith("tin_") else name) for name in _spread(NATURAL)],
        "specialised": [(name, name) for name in SPECIALISED],
        "structured": structured,
    }
    longest = max(map(len, groups.values()))
    return [
        GroundTask(name, group, source, datasets)
        for k in range(longest)
        for group, found in groups.items()
        for name, source in found[k : k + 1]
    ]


def file_name(task: str) -> str:
    """A task's name as part of a path."""
    return task.replace(": ", "__")


def balanced(task: Task, count: int, seed: int) -> npt.NDArray[np.int64]:
    """Numbers of `count` images, as equally many of each class as there are; all if there are fewer."""
    generator = np.random.default_rng(seed)
    rank = np.empty(len(task), np.int64)
    for label in range(task.num_classes):
        members = np.flatnonzero(task.labels == label)
        rank[members] = generator.permutation(len(members))
    order = np.lexsort((generator.permutation(len(task)), rank))
    return np.sort(order[:count])


@dataclasses.dataclass(frozen=True)
class Joined(ImageSource):
    """The images of one source after those of another.

    Attributes:
        first: The first images.
        count: How many they are.
        second: The others.
    """

    first: ImageSource
    count: int
    second: ImageSource

    def __call__(self, index: int) -> Image.Image:
        """Image `index` of both."""
        return self.first(index) if index < self.count else self.second(index - self.count)


def _joined(first: Task, second: Task) -> Task:
    """The images of two tasks of the same classes."""
    assert first.class_names == second.class_names
    return dataclasses.replace(
        first,
        labels=np.concatenate([first.labels, second.labels]),
        images=Joined(first.images, len(first), second.images),
    )


def _spread(names: tuple[str, ...]) -> list[str]:
    """The tasks of Tiny ImageNet among the others instead of one after the other."""
    tin = [name for name in names if name.startswith("tin_")]
    others = [name for name in names if not name.startswith("tin_")]
    return [name for k in range(max(len(tin), len(others))) for name in (*others[k : k + 1], *tin[k : k + 1])]
