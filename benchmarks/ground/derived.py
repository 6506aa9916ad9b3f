"""Other labels for real photographs: which way they are turned, how blurred, how exposed, mirrored, or cut up.

Each photograph gets one of the label set's changes, and the change is its label. The photograph's own class plays no
part, so that two label sets of one collection share their images and nothing else.
"""

from __future__ import annotations

import dataclasses
import zlib
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageFilter

from task2vec import Task
from task2vec.tasks.sources import ImageSource

Change = Callable[[Image.Image, int, np.random.Generator], Image.Image]
"""From a photograph and the number of a class to what is shown."""

TURNS = ("upright", "quarter turn", "half turn", "three quarter turn")
BLURS = {"sharp": 0.0, "soft": 0.012, "blurred": 0.03, "very blurred": 0.065}  # radius as a share of the side
EXPOSURES = {"very dark": 0.3, "dark": 0.58, "as taken": 1.0, "light": 1.7, "very light": 2.6}
ORDERS = ((0, 1, 2, 3), (1, 0, 3, 2), (2, 3, 0, 1), (3, 2, 1, 0), (1, 2, 3, 0), (3, 0, 1, 2))


def _turned(image: Image.Image, label: int, generator: np.random.Generator) -> Image.Image:
    return image.rotate(90 * label, expand=True)


def _blurred(image: Image.Image, label: int, generator: np.random.Generator) -> Image.Image:
    radius = list(BLURS.values())[label] * min(image.size) * generator.uniform(0.85, 1.15)
    return image.filter(ImageFilter.GaussianBlur(radius))


def _exposed(image: Image.Image, label: int, generator: np.random.Generator) -> Image.Image:
    gain = list(EXPOSURES.values())[label] * generator.uniform(0.9, 1.1)
    return image.point(lambda value: min(255, round(value * gain)))


def _mirrored(image: Image.Image, label: int, generator: np.random.Generator) -> Image.Image:
    return image.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if label else image


def _shuffled(image: Image.Image, label: int, generator: np.random.Generator) -> Image.Image:
    width, height = image.width // 2, image.height // 2
    corners = [(0, 0), (width, 0), (0, height), (width, height)]
    made = Image.new("RGB", (2 * width, 2 * height))
    for place, tile in zip(corners, ORDERS[label], strict=True):
        left, top = corners[tile]
        made.paste(image.crop((left, top, left + width, top + height)), place)
    return made


CHANGES: dict[str, tuple[Change, tuple[str, ...]]] = {
    "rotation": (_turned, TURNS),
    "blur": (_blurred, tuple(BLURS)),
    "exposure": (_exposed, tuple(EXPOSURES)),
    "mirrored": (_mirrored, ("as taken", "mirrored")),
    "jigsaw": (_shuffled, tuple("".join(str(tile + 1) for tile in order) for order in ORDERS)),
}


def derive(task: Task, label_set: str, *, seed: int = 0) -> Task:
    """The task of telling which change each of a task's photographs has undergone; the classes are equally frequent."""
    _, classes = CHANGES[label_set]
    key = (zlib.crc32(label_set.encode()), seed)
    labels = np.random.default_rng(key).permutation(np.arange(len(task)) % len(classes)).astype(np.int64)
    images = ChangedImages(task.images, label_set, labels, key)
    return dataclasses.replace(
        task, name=f"{task.name}: {label_set}", labels=labels, class_names=classes, images=images
    )


@dataclasses.dataclass(frozen=True)
class ChangedImages(ImageSource):
    """Photographs, each with the change that its label stands for.

    Attributes:
        photographs: As they were taken.
        label_set: Which kind of change.
        labels: int64 `(N,)`.
        key: What fixes the draw of each change, together with the photograph's number.
    """

    photographs: ImageSource
    label_set: str
    labels: npt.NDArray[np.int64]
    key: tuple[int, int]

    def __call__(self, index: int) -> Image.Image:
        """Photograph `index`, changed."""
        change, _ = CHANGES[self.label_set]
        generator = np.random.default_rng((*self.key, index))
        return change(self.photographs(index), int(self.labels[index]), generator)
