"""Images without labels: files, folders and zips, or pictures in memory."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from selection.errors import SelectionError
from task2vec import Task
from task2vec.images import arrays_to_uint8, image_extensions, open_image
from task2vec.tasks.arrays import ArrayImages
from task2vec.tasks.files import Files, list_images
from task2vec.tasks.sources import ImageSource
from task2vec_base.pictures import to_rgb


@dataclasses.dataclass(frozen=True)
class ManyFiles(ImageSource):
    """Images in files of several places.

    Attributes:
        places: How to read each file, and its name there.
    """

    places: tuple[tuple[Files, str], ...]

    def __call__(self, index: int) -> Image.Image:
        """Decode file `index`."""
        files, name = self.places[index]
        return open_image(lambda: files.read(name), str(files.path / name))


@dataclasses.dataclass(frozen=True)
class Pictures(ImageSource):
    """PIL images."""

    pictures: tuple[Image.Image, ...]
    in_memory: bool = True

    def __call__(self, index: int) -> Image.Image:
        """Picture `index` as RGB."""
        return to_rgb(self.pictures[index])


def unlabelled(images: Any) -> tuple[Task, tuple[str, ...]]:
    """Images as a task without labels, and a name for each.

    Args:
        images: A task; a path or several, of image files, folders at any depth, or zips; a PIL image or several; or an
            array or tensor as `Task.from_arrays` takes.

    Raises:
        SelectionError: there are none, they are something else, or an array may be one image or several.
        TaskError: nothing lies at a path, or an array has no images.
    """
    if isinstance(images, Task):
        return images, tuple(f"image {i}" for i in range(len(images)))
    if isinstance(images, torch.Tensor) or (isinstance(images, np.ndarray) and images.dtype.kind not in "OU"):
        if images.ndim == 3 and (images.shape[0] == 3 or images.shape[2] in (3, 4)):
            raise SelectionError(
                f"an array {tuple(images.shape)} may be one image or several grey ones; give images[None] or "
                "images[..., None]"
            )
        return _task(ArrayImages(arrays_to_uint8(images)), len(images)), tuple(f"image {i}" for i in range(len(images)))
    several = list(images) if isinstance(images, Sequence | np.ndarray) and not isinstance(images, str) else [images]
    if several and all(isinstance(image, Image.Image) for image in several):
        names = tuple(f"image {i}" for i in range(len(several)))
        return _task(Pictures(tuple(several)), len(several)), names
    if several and all(isinstance(path, str | Path) for path in several):
        if "" in several:
            raise SelectionError("an empty path names no image; give '.' for the folder here")
        places = [place for path in several for place in _places(Path(path))]
        names = tuple(str(files.path / name) for files, name in places)
        return _task(ManyFiles(tuple(places)), len(places)), names
    kinds = ", ".join(sorted({type(image).__name__ for image in several})) or "nothing"
    raise SelectionError(f"{kinds} cannot be predicted; give paths, PIL images, an array, a tensor or a task")


def _places(path: Path) -> list[tuple[Files, str]]:
    if path.is_file() and path.suffix.lower() in image_extensions():
        return [(Files(path.parent), path.name)]
    listing = list_images(path)
    return [(listing.files, name) for name in listing.images]


def _task(images: ImageSource, count: int) -> Task:
    return Task("images", np.zeros(count, np.int64), ("",), images, source="images")
