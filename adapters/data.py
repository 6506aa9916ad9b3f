"""Labelled images on their way into a network: read through torch's `DataLoader`, a batch at a time.

Any map-style dataset of (image, label) will do. One that has methods `decoded` and `stages`, as `task2vec.Task` has,
is decoded once and read from what it keeps; augmentation comes after that. A dataset that draws crops or flips by
itself is asked again for every epoch. Whatever is drawn follows from the seed, the epoch and the image's number alone:
a training that is resumed draws what an uninterrupted one would have drawn, with any number of workers.
"""

from __future__ import annotations

import dataclasses
import hashlib
import multiprocessing
import os
import random
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from timm.data import create_transform, resolve_data_config
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, IterableDataset, Subset, TensorDataset
from torchvision.datasets import VisionDataset

from adapters.errors import TrainingError
from adapters.sites import image_size

Transform = Callable[[Any], Tensor]
Workers = int | Literal["auto"]

MOST_WORKERS = 8  # when their number is chosen here
FINGERPRINTED = 1024  # images, spread evenly, that tell one dataset from another; beside all labels that are known
IMAGE_COLUMNS = ("image", "img", "pixel_values")
LABEL_COLUMNS = ("label", "labels", "fine_label", "target", "class")


class Batch(NamedTuple):
    """Images `(B, C, H, W)` and their labels: int64 `(B,)`, or float32 `(B, classes)` of 0 and 1."""

    images: Tensor
    labels: Tensor


def transform_of(model: nn.Module) -> Transform:
    """The preprocessing that a timm model was trained with, at the size of image that it takes, without
    augmentation.
    """
    config = resolve_data_config({}, model=model)
    config["input_size"] = image_size(model) or config["input_size"]
    transform: Transform = create_transform(**config, is_training=False)
    return transform


class Batches:
    """A map-style dataset of (image, label), ready for a network.

    Args:
        dataset: Anything with a length and items `(image, label)`, or with columns such as `image` and `label`. Tensors
            are taken as they are, other images go through `transform`.
        transform: Image to tensor `(C, H, W)`.
        report: Called with how many images have been decoded, for progress.
        workers: Processes that decode.

    Raises:
        TrainingError: the dataset is empty or none of map style, or a label is not a class number.
    """

    def __init__(
        self,
        dataset: Any,
        transform: Transform,
        report: Callable[[int], object] = lambda done: None,
        *,
        workers: Workers = "auto",
    ) -> None:
        dataset = _selected(_map_style(dataset))
        if not len(dataset):
            raise TrainingError("the dataset holds no images; give at least one batch")
        if hasattr(dataset, "decoded"):
            dataset = dataset.decoded(transform, workers=workers, progress=lambda what, done, total: report(done))
        self.dataset, self.transform = dataset, transform
        self.cacheable = is_cacheable(dataset)
        self._labels = _known_labels(dataset)
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
        names = getattr(self.dataset, "class_names", None)
        return None if names is None else tuple(names)

    def take(self, indices: Tensor) -> Batch:
        """Images and labels in the given order, read here and not augmented."""
        return _checked(_collate(self._examples.__getitems__([(None, int(i)) for i in indices])))

    def fingerprint(self) -> str:
        """Hash of the labels and of images spread evenly over the dataset, or of the number of images alone where they
        change from one reading to the next.
        """
        if not self.cacheable:
            return f"{len(self)} changing images"
        digest = hashlib.sha256(f"{len(self)};".encode())
        some = torch.arange(0, len(self), max(1, -(-len(self) // FINGERPRINTED)))
        tensors = [] if self._labels is None else [self._labels]
        for batch in Reader(self, workers="auto").read(some.split(64)):
            tensors += [torch.tensor(batch.images.shape), batch.images, batch.labels]
        for tensor in tensors:
            digest.update(tensor.contiguous().view(-1).view(torch.uint8).numpy().tobytes())
        return digest.hexdigest()[:32]

    def examples(self, augment: Transform | None, seed: int) -> Examples:
        """The items for a `DataLoader`."""
        if augment is not None and isinstance(self._examples.raw(0), Tensor):
            raise TrainingError("tensors cannot be augmented; give PIL images, or augment='none'")
        return dataclasses.replace(self._examples, augment=augment, seed=seed)


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
        return _pair(self.dataset[index])[0]

    def _read(self, index: int, augment: Transform | None) -> tuple[Tensor, Any]:
        if hasattr(self.dataset, "stages"):
            resized, finish = self.dataset.stages(self.transform)
            return (augment or finish)(resized(index)), self.dataset.labels[index]
        image, label = _pair(self.dataset[index])
        tensor = image if isinstance(image, Tensor) else (augment or self.transform)(image)
        return tensor, _class_number(label, index)


class Reader:
    """Batches of a dataset in any order, epoch after epoch, through one `DataLoader` whose workers stay.

    Args:
        batches: The dataset.
        workers: Processes that read ahead; `"auto"` for one a core, `MOST_WORKERS` at most, and none where they would
            not pay: for images in memory on a CPU, for a single batch, and where a process cannot be forked, so that
            each worker would load torch anew and the caller's script would have to guard its main part.
        device: Where the batches will be needed; for an accelerator they are pinned.
        augment: What to do with an image instead of the dataset's transform.
        seed: What is drawn at random follows from it, the epoch and the image's number.
    """

    def __init__(
        self,
        batches: Batches,
        *,
        workers: Workers = 0,
        device: torch.device | None = None,
        augment: Transform | None = None,
        seed: int = 0,
    ) -> None:
        self._batches, self._workers = batches, workers
        self.device = torch.device("cpu") if device is None else device
        self._on_accelerator = self.device.type not in ("cpu", "meta")
        # For an accelerator even resized images are prepared in workers: normalising them here would keep it waiting.
        is_ready = isinstance(batches.dataset, TensorDataset) or not self._on_accelerator
        self._cheap = batches.in_memory and augment is None and is_ready
        self._examples = batches.examples(augment, seed)
        self._keys: list[list[tuple[int | None, int]]] = []
        self._loader: DataLoader[Any] | None = None

    def __len__(self) -> int:
        return len(self._batches)

    def read(self, order: Iterable[Tensor], epoch: int | None = None) -> Iterator[Batch]:
        """The batches of these image numbers, one after the other; those of an epoch are augmented.

        Raises:
            TrainingError: an image cannot be read; names it.
        """
        # The sampler of the loader is this very list.
        self._keys[:] = [[(epoch, int(i)) for i in indices] for indices in order]
        if self._loader is None:
            workers = num_workers(self._workers, len(self._keys), cheap=self._cheap)
            self._loader = DataLoader(
                self._examples,
                batch_sampler=self._keys,  # epochs and numbers instead of numbers alone
                num_workers=workers,
                collate_fn=_collate,
                pin_memory=self._on_accelerator,
                persistent_workers=workers > 0,
                generator=torch.Generator(),  # the global one is for the training itself
            )
        for batch in self._loader:
            yield _checked(batch)


def num_workers(workers: Workers, num_batches: int, *, cheap: bool) -> int:
    """How many processes read; see `Reader`.

    Raises:
        TrainingError: neither `"auto"` nor a whole number from 0.
    """
    if workers != "auto":
        if isinstance(workers, bool) or not isinstance(workers, int) or workers < 0:
            raise TrainingError(f"workers={workers!r} cannot read images; give 'auto', 0, or a number of processes")
        return workers
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    forks = multiprocessing.get_start_method() == "fork"
    return 0 if cheap or num_batches < 2 or not forks else min(MOST_WORKERS, cores)


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


def is_cacheable(dataset: Any) -> bool:
    """Whether a dataset, or the one that it is torch's `Subset` of, gives the same image at every reading.

    Other wrappers are not looked through: one that keeps its base in `dataset` may well augment what it reads there.
    """
    while isinstance(dataset, Subset):
        dataset = dataset.dataset
    return isinstance(dataset, (list, tuple, TensorDataset)) or bool(getattr(dataset, "cacheable", False))


def class_numbers(labels: Tensor) -> Tensor:
    """Labels as int64 `(N,)`, or float32 `(N, classes)` of 0 and 1.

    Raises:
        TrainingError: a label is neither a class number nor a row of 0 and 1.
    """
    if labels.ndim == 2:
        wrong = ~((labels == 0) | (labels == 1))
        if wrong.any():
            raise TrainingError(f"labels of image {int(wrong.any(dim=1).nonzero()[0])} must be 0 or 1 for each class")
        return labels.float()
    wrong = (labels < 0) | (labels != labels.long())
    if wrong.any():
        index = int(wrong.nonzero()[0])
        value = labels[index].item()
        raise TrainingError(f"label {value} of image {index} is not a class number; number classes from 0")
    return labels.long()


def _class_number(label: Any, index: int) -> Any:
    if getattr(label, "ndim", 0) == 1 or isinstance(label, (list, tuple)):
        return class_numbers(torch.as_tensor(label)[None])[0]
    number = int(label)
    if number < 0 or number != label:
        raise TrainingError(f"label {label} of image {index} is not a class number; number classes from 0")
    return number


def _map_style(dataset: Any) -> Any:
    if isinstance(dataset, DataLoader):
        raise TrainingError(
            "this is a DataLoader, whose order could not be resumed; give its dataset instead, as in "
            f"loader.dataset with batch_size={dataset.batch_size} and workers={dataset.num_workers}"
        )
    if isinstance(dataset, IterableDataset) or not (hasattr(dataset, "__len__") and hasattr(dataset, "__getitem__")):
        raise TrainingError(f"{type(dataset).__name__} has no length or no items by number; give a map-style dataset")
    if isinstance(dataset, Mapping):
        first = next(iter(dataset), "train")
        raise TrainingError(f"this is a {type(dataset).__name__} of splits; give one, such as dataset[{first!r}]")
    return dataset


def _selected(dataset: Any) -> Any:
    """The part of a dataset that torch's `Subset` stands for, where the dataset can select by itself."""
    if isinstance(dataset, Subset):
        base = _selected(dataset.dataset)
        if hasattr(base, "decoded") and hasattr(base, "select"):
            return base.select(list(dataset.indices))
    return dataset


def _pair(item: Any) -> tuple[Any, Any]:
    """Image and label of an item."""
    if isinstance(item, Mapping):
        image = next((key for key in IMAGE_COLUMNS if key in item), None)
        label = next((key for key in LABEL_COLUMNS if key in item), None)
        if image is None or label is None:
            raise TrainingError(f"items have the columns {', '.join(map(str, item))}; name them 'image' and 'label'")
        return item[image], item[label]
    if isinstance(item, (tuple, list)) and len(item) >= 2:
        return item[0], item[1]
    raise TrainingError(f"items are {type(item).__name__}; give (image, label) pairs")


def _known_labels(dataset: Any) -> Tensor | None:
    """All labels, from where a dataset is known to hold the ones that its items have."""
    if isinstance(dataset, Subset):
        known = _known_labels(dataset.dataset)
        return None if known is None else known[torch.as_tensor(dataset.indices)]
    if hasattr(dataset, "stages"):
        return class_numbers(torch.as_tensor(dataset.labels))
    if isinstance(dataset, TensorDataset):
        return class_numbers(dataset.tensors[1]) if len(dataset.tensors) == 2 else None
    if isinstance(dataset, (list, tuple)):
        labels = [_class_number(_pair(item)[1], index) for index, item in enumerate(iter(dataset))]
        return torch.stack(labels) if isinstance(labels[0], Tensor) else torch.tensor(labels)
    if isinstance(dataset, VisionDataset) and dataset.target_transform is None and dataset.transforms is None:
        if not type(dataset).__getitem__.__module__.startswith("torchvision."):  # it may give others than it holds
            return None
        targets = getattr(dataset, "targets", None)
        return None if targets is None else class_numbers(torch.as_tensor(targets))
    return None


def _collate(items: Batch | list[tuple[Tensor, Any] | Failure]) -> Batch | Failure:
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


def _checked(batch: Batch | Failure) -> Batch:
    if isinstance(batch, Failure):
        raise TrainingError(batch.message)
    return batch
