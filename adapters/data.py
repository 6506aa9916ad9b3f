"""Images in batches: decoded once and kept where they fit in memory, otherwise read again for each epoch.

Only what is the same at every reading is kept: lists, torch's `TensorDataset`, and datasets that say so by an attribute
`cacheable` that is true, as `task2vec.Task` does. Any other may draw a new crop or flip each time, and is asked again
for every epoch.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any

import torch
from timm.data import create_transform, resolve_data_config
from torch import Tensor, nn
from torch.utils.data import Subset, TensorDataset

from adapters.errors import TrainingError
from adapters.sites import image_size

Transform = Callable[[Any], Tensor]

KEEP_BYTES = 2 * 2**30  # decoded images are kept up to this size
UNSEEN = -1  # the label of an image that was not read yet


def transform_of(model: nn.Module) -> Transform:
    """The preprocessing that a timm model was trained with, at the size of image that it takes, without
    augmentation.
    """
    config = resolve_data_config({}, model=model)
    config["input_size"] = image_size(model) or config["input_size"]
    transform: Transform = create_transform(**config, is_training=False)
    return transform


class Batches:
    """A map-style dataset of (image, label) as batches of tensors.

    Args:
        dataset: Anything with a length and items `(image, label)`. Tensors are taken as they are, other images go
            through `transform`.
        transform: Image to tensor `(C, H, W)`.
        report: Called with how many images have been decoded, for progress.

    Raises:
        TrainingError: the dataset is empty, or a label is not a class number.
    """

    def __init__(self, dataset: Any, transform: Transform, report: Callable[[int], None] = lambda done: None) -> None:
        if not len(dataset):
            raise TrainingError("the dataset holds no images; give at least one batch")
        self.dataset = dataset
        self.transform = transform
        first = self[0][0]
        self.kept: tuple[Tensor, Tensor] | None = None
        self.seen_labels = torch.full((len(dataset),), UNSEEN)
        self.cacheable = is_cacheable(dataset)
        if self.cacheable and first.numel() * first.element_size() * len(dataset) <= KEEP_BYTES:
            images, labels = [], []
            for i in range(len(dataset)):
                image, label = self[i]
                images.append(image)
                labels.append(label)
                report(i + 1)
            self.kept = torch.stack(images), torch.tensor(labels)

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        image, label = self.dataset[index]
        number = int(label)
        if number < 0 or number != label:
            raise TrainingError(f"label {label} of image {index} is not a class number; number classes from 0")
        return image if isinstance(image, Tensor) else self.transform(image), number

    @property
    def num_classes(self) -> int:
        """One more than the largest label."""
        return int(self.labels().max()) + 1

    def fingerprint(self) -> str:
        """Hash of all decoded images and labels, of some of them where they are too many to keep, or of the number of
        images alone where they change from one reading to the next.
        """
        if not self.cacheable:
            return f"{len(self)} changing images"
        if self.kept is not None:
            images, labels = self.kept
        else:
            some = [self[i] for i in range(0, len(self), max(1, len(self) // 64))]
            images, labels = torch.stack([image for image, _ in some]), torch.tensor([label for _, label in some])
        digest = hashlib.sha256(f"{len(self)};{tuple(images.shape)};".encode())
        for tensor in (images, labels):
            digest.update(tensor.contiguous().view(-1).view(torch.uint8).numpy().tobytes())
        return digest.hexdigest()[:32]

    def class_names(self) -> tuple[str, ...] | None:
        """The names of the classes by their numbers, if the dataset knows them."""
        names = getattr(self.dataset, "class_names", None)
        return None if names is None else tuple(names)

    def take(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        """Images `(B, C, H, W)` and labels `(B,)`, in the given order."""
        if self.kept is not None:
            return self.kept[0][indices], self.kept[1][indices]
        items = [self[i] for i in indices.tolist()]
        self.seen_labels[indices] = torch.tensor([label for _, label in items])
        return torch.stack([image for image, _ in items]), self.seen_labels[indices]

    def labels(self) -> Tensor:
        """All labels `(N,)`; images that were never taken are read for it."""
        if self.kept is not None:
            return self.kept[1]
        for i in (self.seen_labels == UNSEEN).nonzero().flatten().tolist():
            self.seen_labels[i] = self[i][1]
        return self.seen_labels

    def replaced(self, images: Tensor) -> Batches:
        """The same labels with other inputs, such as cached features."""
        assert self.kept is not None
        batches = object.__new__(Batches)
        batches.dataset, batches.transform = self.dataset, self.transform
        batches.kept, batches.cacheable = (images, self.kept[1]), self.cacheable
        return batches


def is_cacheable(dataset: Any) -> bool:
    """Whether a dataset, or the one that it is torch's `Subset` of, gives the same image at every reading.

    Other wrappers are not looked through: one that keeps its base in `dataset` may well augment what it reads there.
    """
    while isinstance(dataset, Subset):
        dataset = dataset.dataset
    return isinstance(dataset, (list, tuple, TensorDataset)) or bool(getattr(dataset, "cacheable", False))
