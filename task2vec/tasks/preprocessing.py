"""A network's preprocessing in two stages: the resize, after which an image is small enough to be kept, and the rest.

transform(image) = finish(resize(image))
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from itertools import takewhile
from typing import Any

from PIL import Image
from timm.data.transforms import ResizeKeepRatio
from torch import Tensor
from torchvision import transforms

Transform = Callable[[Image.Image], Tensor]


@dataclasses.dataclass(frozen=True)
class Resize:
    """The steps of a preprocessing that only change an image's size; none where it is not known what the steps do."""

    steps: tuple[Callable[[Image.Image], Image.Image], ...] = ()

    @property
    def key(self) -> str:
        """What it does, in words that are the same for two resizes that do the same."""
        return " ".join(repr(step) for step in self.steps)

    def __call__(self, image: Image.Image) -> Image.Image:
        """The image after all steps."""
        for step in self.steps:
            image = step(image)
        return image


@dataclasses.dataclass(frozen=True)
class Finish:
    """What a preprocessing does after the resize: PIL image to tensor `(C, H, W)`."""

    steps: tuple[Callable[[Any], Any], ...]

    def __call__(self, image: Image.Image) -> Tensor:
        """The tensor of a resized image."""
        result: Any = image
        for step in self.steps:
            result = step(result)
        return result


def stages(transform: Transform) -> tuple[Resize, Transform]:
    """Split a preprocessing into its resize and the rest."""
    if not isinstance(transform, transforms.Compose):
        return Resize(), transform
    steps = tuple(transform.transforms)
    resizing = tuple(takewhile(_only_resizes, steps))
    return Resize(resizing), Finish(steps[len(resizing) :])


def _only_resizes(step: object) -> bool:
    if isinstance(step, ResizeKeepRatio):
        return not (step.random_scale_prob or step.random_aspect_prob)
    return type(step) is transforms.Resize
