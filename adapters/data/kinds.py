"""Kinds of datasets: which can be read, what their items are, and what they tell without reading an image."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import ConcatDataset, DataLoader, IterableDataset, Subset, TensorDataset
from torchvision.datasets import DatasetFolder

from adapters.data.labels import class_number, class_numbers
from adapters.errors import TrainingError
from task2vec_base.datasets import IMAGE_COLUMNS, LABEL_COLUMNS, is_read_by_torchvision


def map_style(dataset: Any) -> Any:
    """The dataset.

    Raises:
        TrainingError: it is none of map style; says what to give instead.
    """
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


def selected(dataset: Any) -> Any:
    """The part of a dataset that torch's `Subset` stands for, where the dataset can select by itself."""
    if isinstance(dataset, Subset):
        base = selected(dataset.dataset)
        if hasattr(base, "decoded") and hasattr(base, "select"):
            return base.select(list(dataset.indices))
    return dataset


def is_cacheable(dataset: Any) -> bool:
    """Whether a dataset, or the one that it is torch's `Subset` of, gives the same image at every reading.

    Other wrappers are not looked through: one that keeps its base in `dataset` may well augment what it reads there.
    """
    while isinstance(dataset, Subset):
        dataset = dataset.dataset
    return isinstance(dataset, (list, tuple, TensorDataset)) or bool(getattr(dataset, "cacheable", False))


def image_and_label(item: Any) -> tuple[Any, Any]:
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


def known_labels(dataset: Any) -> Tensor | None:
    """All labels, from where a dataset is known to hold the ones that its items have."""
    if isinstance(dataset, Subset):
        known = known_labels(dataset.dataset)
        return None if known is None else known[torch.as_tensor(dataset.indices)]
    if isinstance(dataset, ConcatDataset):
        parts = [known_labels(part) for part in dataset.datasets]
        known_parts = [part for part in parts if part is not None]
        alike = len(known_parts) == len(parts) and len({part.shape[1:] for part in known_parts}) == 1
        return torch.cat(known_parts) if alike else None
    if hasattr(dataset, "stages"):
        return class_numbers(torch.as_tensor(dataset.labels))
    if isinstance(dataset, TensorDataset):
        return class_numbers(dataset.tensors[1]) if len(dataset.tensors) == 2 else None
    if isinstance(dataset, (list, tuple)):
        labels = [class_number(image_and_label(item)[1], index) for index, item in enumerate(iter(dataset))]
        return torch.stack(labels) if isinstance(labels[0], Tensor) else torch.tensor(labels)
    if _gives_stored_labels(dataset):
        targets = getattr(dataset, "targets", None)
        return None if targets is None else class_numbers(torch.as_tensor(targets))
    return None


def _gives_stored_labels(dataset: Any) -> bool:
    """Whether its items have the very labels that it holds."""
    return is_read_by_torchvision(dataset) and dataset.target_transform is None


def class_names(dataset: Any) -> tuple[str, ...] | None:
    """The names of the classes by their numbers, where a dataset knows those of the labels that its items have.

    Raises:
        TrainingError: datasets that are put one after the other give one number to different classes.
    """
    if isinstance(dataset, Subset):
        return class_names(dataset.dataset)
    if isinstance(dataset, ConcatDataset):
        known = [names for names in map(class_names, dataset.datasets) if names is not None]
        most = max(known, key=len, default=None)
        for theirs in known:
            check_same_numbers(most or (), theirs, "another one in it", "a dataset in a ConcatDataset")
        return most
    if getattr(dataset, "target_transform", None) is not None:  # to labels that the names do not belong to
        return None
    names = getattr(dataset, "class_names", None)
    if names is None and _gives_stored_labels(dataset):
        names = getattr(dataset, "classes", None)
    features = getattr(dataset, "features", None)  # of a Hugging Face dataset
    if names is None and isinstance(features, Mapping):
        names = next((getattr(features[key], "names", None) for key in LABEL_COLUMNS if key in features), None)
    return None if names is None else tuple(map(str, names))


def check_same_numbers(names: Sequence[str], others: Sequence[str], what: str, other: str) -> None:
    """Make sure that each number stands for the same class in both; either may know of further classes.

    Raises:
        TrainingError: one does not.
    """
    if any(name != theirs for name, theirs in zip(names, others, strict=False)):
        raise TrainingError(
            f"the classes of {other}, {_listed(others)}, are not those of {what}, {_listed(names)}; "
            "give them the same numbers, as task2vec.Task does with classes_of="
        )


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")


def description(dataset: Any) -> str:
    """What a dataset tells of its items without reading any: their number at least."""
    if isinstance(dataset, Subset):
        return f"{description(dataset.dataset)}{[int(index) for index in dataset.indices]}"
    if isinstance(dataset, ConcatDataset):
        return " + ".join(map(description, dataset.datasets))
    if isinstance(dataset, DatasetFolder):
        return repr(dataset.samples)
    return str(_fingerprint_of_table(dataset) or len(dataset))


def is_described(dataset: Any) -> bool:
    """Whether the description tells a dataset from any other: by the names of its files, or by the fingerprint that
    Hugging Face's `datasets` gives it.
    """
    if isinstance(dataset, Subset):
        return is_described(dataset.dataset)
    if isinstance(dataset, ConcatDataset):
        return all(map(is_described, dataset.datasets))
    return isinstance(dataset, DatasetFolder) or _fingerprint_of_table(dataset) is not None


def _fingerprint_of_table(dataset: Any) -> str | None:
    found = getattr(dataset, "_fingerprint", None)
    return found if isinstance(found, str) else None
