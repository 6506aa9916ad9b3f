"""A dataset, ready for a network."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable, Sequence
from typing import Any

import torch
from timm.data import create_transform, resolve_data_config
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from adapters.data.examples import Batch, Examples, Transform, checked, collate
from adapters.data.kinds import class_names, description, is_cacheable, is_described, known_labels, map_style, selected
from adapters.data.reader import Reader, Workers
from adapters.errors import TrainingError
from adapters.sites import image_size

FINGERPRINTED = 1024  # images, spread evenly, that tell one dataset from another; beside all labels that are known
READ_TWICE = 16  # of these: enough that one of them changes where half of all readings do


def transform_of(model: nn.Module) -> Transform:
    """The preprocessing that a timm model was trained with, at the size of image that it takes, without
    augmentation.
    """
    transform: Transform = create_transform(**preprocessing_of(model), is_training=False)
    return transform


def preprocessing_of(model: nn.Module) -> dict[str, Any]:
    """The same as timm's data config: what `timm.data.create_transform` wants."""
    config = dict(resolve_data_config({}, model=model))
    config["input_size"] = image_size(model) or config["input_size"]
    return config


class Batches:
    """A map-style dataset of (image, label), ready for a network.

    Args:
        dataset: Anything with a length and items `(image, label)`, or with columns such as `image` and `label`. Tensors
            are taken as they are, other images go through `transform`.
        transform: Image to tensor `(C, H, W)`.
        report: Called with how many images have been decoded, for progress.
        workers: Processes that decode.

    Raises:
        TrainingError: the dataset is empty or none of map style, a label is not a class number, or one is of different
            classes in parts of the dataset.
    """

    def __init__(
        self,
        dataset: Any,
        transform: Transform,
        report: Callable[[int], object] = lambda done: None,
        *,
        workers: Workers = "auto",
    ) -> None:
        dataset = selected(map_style(dataset))
        if not len(dataset):
            raise TrainingError("the dataset holds no images; give at least one batch")
        if hasattr(dataset, "decoded"):
            dataset = dataset.decoded(transform, workers=workers, progress=lambda what, done, total: report(done))
        self.dataset, self.transform = dataset, transform
        self.cacheable = is_cacheable(dataset)
        self._labels, self._class_names = known_labels(dataset), class_names(dataset)
        self._examples = Examples(dataset, transform, steady=self.cacheable)

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> tuple[Tensor, Any]:
        images, labels = self.take(torch.tensor([index]))
        return images[0], labels[0] if labels.ndim == 2 else int(labels[0])

    @property
    def in_memory(self) -> bool:
        """Whether an image costs no reading and decoding."""
        lists = isinstance(self.dataset, (list, tuple, TensorDataset))
        return lists or bool(getattr(self.dataset, "in_memory", False))

    @property
    def multi_label(self) -> bool:
        """Whether an image may be of several classes or none."""
        return (self.take(torch.zeros(1, dtype=torch.long)).labels if self._labels is None else self._labels).ndim == 2

    @property
    def num_classes(self) -> int:
        """One more than the largest label, or the length of rows of labels."""
        labels = self.labels()
        return labels.shape[1] if labels.ndim == 2 else int(labels.max()) + 1

    @property
    def known_labels(self) -> Tensor | None:
        """All labels, if they can be had without reading an image."""
        return self._labels

    @property
    def unreadable(self) -> tuple[str, ...]:
        """Names of images that were left out because they could not be decoded."""
        return tuple(getattr(self.dataset, "unreadable", ()))

    def labels(self) -> Tensor:
        """All labels, `(N,)` or `(N, classes)`; where the dataset does not tell them, its images are read for it."""
        if self._labels is None:
            order = torch.arange(len(self)).split(64)
            self._labels = torch.cat([batch.labels for batch in Reader(self, workers="auto").read(order)])
        return self._labels

    def class_names(self) -> tuple[str, ...] | None:
        """The names of the classes by their numbers, if the dataset knows them."""
        return self._class_names

    def take(self, indices: Tensor) -> Batch:
        """Images and labels in the given order, read here and not augmented."""
        return checked(collate(self._examples.__getitems__([(None, int(i)) for i in indices])))

    def fingerprint(self) -> str | None:
        """Hash of what the dataset tells of its items, of the labels that are known, and of images spread evenly over
        it; these are read as in a training with a seed, so that they are the same although they are drawn at random.

        None where that tells the dataset from no other: nothing names its items, and they change with every reading.
        """
        some = torch.arange(0, len(self), max(1, -(-len(self) // FINGERPRINTED)))
        few = some[:: max(1, len(some) // READ_TWICE)]
        steady = self.cacheable or self._digest([few]) == self._digest([few])
        if not (steady or is_described(self.dataset)):
            return None
        return self._digest(some.split(64) if steady else [])

    def _digest(self, order: Sequence[Tensor]) -> str:
        """Hash of what is known of all items, and of those of these numbers as one epoch of one seed has them."""
        digest = hashlib.sha256(f"{description(self.dataset)};".encode())
        tensors = [] if self._labels is None else [self._labels]
        for batch in Reader(self, workers="auto").read(order, epoch=0):
            tensors += [torch.tensor(batch.images.shape), batch.images, batch.labels]
        for tensor in tensors:
            digest.update(tensor.contiguous().view(-1).view(torch.uint8).numpy().tobytes())
        return digest.hexdigest()[:32]

    def examples(self, augment: Transform | None, seed: int) -> Examples:
        """The items for a `DataLoader`."""
        if augment is not None and isinstance(self._examples.raw(0), Tensor):
            raise TrainingError("tensors cannot be augmented; give PIL images, or augment='none'")
        return dataclasses.replace(self._examples, augment=augment, seed=seed)
