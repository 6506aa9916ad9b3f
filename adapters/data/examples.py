"""Single images and their labels, prepared for a network, and batches of them."""

from __future__ import annotations

import dataclasses
import hashlib
import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset, TensorDataset
from torchvision.transforms import Normalize

from adapters.data.kinds import image_and_label
from adapters.data.labels import class_number, class_numbers
from adapters.errors import TrainingError
from task2vec_base.pictures import to_rgb

Transform = Callable[[Any], Tensor]


class Batch(NamedTuple):
    """Images `(B, C, H, W)` and their labels: int64 `(B,)`, or float32 `(B, classes)` of 0 and 1."""

    images: Tensor
    labels: Tensor


@dataclasses.dataclass(frozen=True)
class Failure:
    """An image that could not be read in a worker: what went wrong."""

    message: str


@dataclasses.dataclass(frozen=True)
class Examples(Dataset[Any]):
    """Items by (epoch, number): tensor and label, or what went wrong. Without an epoch nothing is augmented.

    Attributes:
        dataset: The images and labels.
        transform: Image to tensor.
        steady: Whether the dataset itself draws nothing at random.
        augment: Instead of `transform` in training, after what the dataset keeps of an image.
        seed: What is drawn follows from it, the epoch and the number.
    """

    dataset: Any
    transform: Transform
    steady: bool
    augment: Transform | None = None
    seed: int = 0

    def __getitem__(self, key: tuple[int | None, int]) -> tuple[Tensor, Any] | Failure:
        epoch, index = key
        try:
            if epoch is None or (self.augment is None and self.steady):
                return self._read(index, None)
            with drawn_from(self.seed, epoch, index):
                return self._read(index, self.augment)
        except TrainingError as error:
            return Failure(str(error))
        except Exception as error:  # a dataset may fail in any way, and a worker must not
            return Failure(f"cannot read image {index} ({type(error).__name__}: {error}); replace or remove it")

    def __getitems__(self, keys: Sequence[tuple[int | None, int]]) -> Batch | list[tuple[Tensor, Any] | Failure]:
        """A whole batch; from tensors in memory in one go."""
        if isinstance(self.dataset, TensorDataset) and self.augment is None and len(self.dataset.tensors) == 2:
            indices = torch.tensor([index for _, index in keys])
            images, labels = (tensor[indices] for tensor in self.dataset.tensors)
            return Batch(images, class_numbers(labels))
        return [self[key] for key in keys]

    def raw(self, index: int) -> Any:
        """The image that is augmented or transformed."""
        if hasattr(self.dataset, "stages"):
            return self.dataset.stages(self.transform)[0](index)
        return image_and_label(self.dataset[index])[0]

    def _read(self, index: int, augment: Transform | None) -> tuple[Tensor, Any]:
        if hasattr(self.dataset, "stages"):
            resized, finish = self.dataset.stages(self.transform)
            return (augment or finish)(resized(index)), self.dataset.labels[index]
        image, label = image_and_label(self.dataset[index])
        if isinstance(image, Image.Image) and _takes_colours(self.transform):
            image = to_rgb(image)
        tensor = image if isinstance(image, Tensor) else (augment or self.transform)(image)
        return tensor, class_number(label, index)


def _takes_colours(transform: Any) -> bool:
    """Whether a transform, as timm makes them, normalises three channels."""
    steps = getattr(transform, "transforms", ())
    return any(isinstance(step, Normalize) and len(step.mean) == 3 for step in steps)


def collate(items: Batch | list[tuple[Tensor, Any] | Failure]) -> Batch | Failure:
    """One batch of items, or the first failure among them."""
    if isinstance(items, Batch):
        return items
    failures = [item for item in items if isinstance(item, Failure)]
    if failures:
        return failures[0]
    read = [item for item in items if not isinstance(item, Failure)]
    shapes = {tuple(image.shape) for image, _ in read}
    if len(shapes) > 1:
        return Failure(f"images have shapes {', '.join(map(str, sorted(shapes)))}; give tensors of one size")
    labels = torch.stack([torch.as_tensor(label) for _, label in read])
    return Batch(torch.stack([image for image, _ in read]), labels.float() if labels.ndim == 2 else labels.long())


def checked(batch: Batch | Failure) -> Batch:
    """The batch.

    Raises:
        TrainingError: it is a failure.
    """
    if isinstance(batch, Failure):
        raise TrainingError(batch.message)
    return batch


@contextmanager
def drawn_from(*key: int) -> Iterator[None]:
    """Inside the context, what Python, NumPy and torch draw on the CPU follows from the key; outside nothing changes.

    The global generators are what torchvision's and timm's transforms draw from.
    """
    seed = int.from_bytes(hashlib.sha256(repr(key).encode()).digest()[:4], "big")
    states = random.getstate(), np.random.get_state(), torch.get_rng_state()  # noqa: NPY002
    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002
    torch.default_generator.manual_seed(seed)
    try:
        yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])  # noqa: NPY002
        torch.set_rng_state(states[2])
