"""Images that lie in memory as arrays."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image

from task2vec.errors import TaskError
from task2vec.images import arrays_to_uint8
from task2vec.tasks.labels import label_space
from task2vec.tasks.sources import ImageSource, LabelledImages


@dataclasses.dataclass(frozen=True)
class ArrayImages(ImageSource):
    """uint8 `(N, H, W, 3)`."""

    pixels: npt.NDArray[np.uint8]
    in_memory = True

    def __call__(self, index: int) -> Image.Image:
        """Image `index`."""
        return Image.fromarray(self.pixels[index])


def read_arrays(
    images: npt.ArrayLike | torch.Tensor, labels: npt.ArrayLike | torch.Tensor, class_names: Sequence[str] | None
) -> LabelledImages:
    """Images of any layout that `arrays_to_uint8` knows, and their labels."""
    pixels = arrays_to_uint8(images if isinstance(images, torch.Tensor) else np.asarray(images))
    if len(pixels) and pixels.max() == 1:
        raise TaskError("no pixel of all images exceeds 1 of 255, which is black; give 0 and 1 as booleans or floats")
    values: npt.NDArray[Any] = labels.detach().cpu().numpy() if isinstance(labels, torch.Tensor) else np.asarray(labels)
    if values.ndim not in (1, 2) or len(values) != len(pixels):
        raise TaskError(f"{len(pixels)} images need {len(pixels)} labels in one row, not shape {values.shape}")
    numbers, names = label_space(values, tuple(class_names) if class_names is not None else None)
    return LabelledImages(ArrayImages(pixels), numbers, names, source="arrays", name="arrays")
