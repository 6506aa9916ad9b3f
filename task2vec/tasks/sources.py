"""Where the images of a task come from: one small picklable class for each kind of place.

A source gives the i-th image as a person would see it. It is copied into worker processes, forked or started anew, so
that it holds names and opens files itself, never an open file.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable
from typing import Generic, TypeVar

import numpy as np
import numpy.typing as npt
from PIL import Image

from task2vec.tasks.labels import spelled_alike
from task2vec.tasks.preprocessing import Resize

Handle = TypeVar("Handle")


class ImageSource:
    """Gives images by their number.

    Attributes:
        in_memory: Whether an image costs no reading and decoding.
    """

    in_memory: bool = False

    def __call__(self, index: int) -> Image.Image:
        """Image `index` as RGB.

        Raises:
            UnreadableImageError: it cannot be decoded; names it.
        """
        raise NotImplementedError

    def resized(self, index: int, resize: Resize) -> Image.Image:
        """Image `index` after a resize."""
        return resize(self(index))

    def keeps(self, resize: Resize) -> bool:
        """Whether images of this size are kept, as far as there was room, so that they need not be decoded again."""
        return False

    def files_of(self, indices: npt.NDArray[np.int64]) -> list[tuple[str, int]]:
        """Names and bytes of the files of some images, none of which is opened; empty where they lie in no files."""
        return []


@dataclasses.dataclass(frozen=True)
class Selected(ImageSource):
    """Some images of another source, in the given order."""

    source: ImageSource
    indices: npt.NDArray[np.int64]

    @property
    def in_memory(self) -> bool:  # type: ignore[override]
        """As the other source."""
        return self.source.in_memory

    def __call__(self, index: int) -> Image.Image:
        """The other source's image."""
        return self.source(int(self.indices[index]))

    def resized(self, index: int, resize: Resize) -> Image.Image:
        """The other source's image after a resize."""
        return self.source.resized(int(self.indices[index]), resize)

    def keeps(self, resize: Resize) -> bool:
        """As the other source."""
        return self.source.keeps(resize)

    def files_of(self, indices: npt.NDArray[np.int64]) -> list[tuple[str, int]]:
        """Those of the other source."""
        return self.source.files_of(self.indices[indices])


@dataclasses.dataclass(frozen=True)
class LabelledImages:
    """What a reader of one kind of place found, before it is a task.

    Attributes:
        images: The images.
        labels: int64 `(N,)`, or `(N, classes)` of 0 and 1.
        class_names: One name for each label, with composed accents.
        source: Where the images come from, for people to read.
        name: What to call the task, unless its user says otherwise.
        skipped: Names of files that were passed over, as they are no images or in no class.
    """

    images: ImageSource
    labels: npt.NDArray[np.int64]
    class_names: tuple[str, ...]
    source: str
    name: str
    skipped: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Make one class of names that only the spelling of their accents tells apart."""
        labels, class_names = spelled_alike(self.labels, self.class_names)
        object.__setattr__(self, "labels", labels)
        object.__setattr__(self, "class_names", class_names)


class OpenedPerProcess(Generic[Handle]):
    """Something that each process has to open for itself, on first use.

    A file that was opened before a fork shares its position with the child: both would read from the wrong place.
    """

    def __init__(self, open_it: Callable[[], Handle]) -> None:
        self._open_it = open_it
        self._opened: tuple[int, Handle] | None = None

    def get(self) -> Handle:
        """The handle of this process."""
        if self._opened is None or self._opened[0] != os.getpid():
            self._opened = os.getpid(), self._open_it()
        return self._opened[1]

    def __getstate__(self) -> dict[str, object]:
        """Only how to open it."""
        return {"_open_it": self._open_it, "_opened": None}
