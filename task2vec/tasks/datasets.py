"""Map-style datasets of other libraries: torchvision, Hugging Face `datasets`, and torch's wrappers of them."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch.utils.data import ConcatDataset, Subset

from task2vec.errors import TaskError, UnreadableImageError
from task2vec.images import UNREADABLE, arrays_to_uint8
from task2vec.tasks.labels import label_space, several_labels
from task2vec.tasks.sources import ImageSource, LabelledImages
from task2vec_base.datasets import IMAGE_COLUMNS, LABEL_COLUMNS, is_read_by_torchvision
from task2vec_base.pictures import to_rgb


@dataclasses.dataclass(frozen=True)
class DatasetImages(ImageSource):
    """The images of a dataset, under a key of its items."""

    dataset: Any
    key: Any

    @property
    def in_memory(self) -> bool:  # type: ignore[override]
        """Whether it is a plain list."""
        return isinstance(self.dataset, (list, tuple))

    def __call__(self, index: int) -> Image.Image:
        """Image `index` as RGB."""
        try:
            image = self.dataset[index][self.key]
            if isinstance(image, Image.Image):
                return to_rgb(image)
        except UNREADABLE as error:
            raise UnreadableImageError(
                f"cannot read image {index} of {type(self.dataset).__name__} ({error}); replace or remove it"
            ) from error
        if isinstance(image, (np.ndarray, torch.Tensor)):
            return Image.fromarray(arrays_to_uint8(image[None])[0])
        raise TaskError(f"image {index} is a {type(image).__name__}; give PIL images, arrays or tensors")


def read_dataset(dataset: Any) -> LabelledImages:
    """The images and labels of a map-style dataset, with its class names if it knows them.

    Raises:
        TaskError: it has no length, no items, or items that are neither a pair nor a mapping of image and label.
    """
    if isinstance(dataset, Mapping):
        first = next(iter(dataset), "train")
        raise TaskError(f"this is a {type(dataset).__name__} of splits; give one of them, such as dataset[{first!r}]")
    if not hasattr(dataset, "__len__") or not hasattr(dataset, "__getitem__"):
        raise TaskError(f"{type(dataset).__name__} has no length or no items by index; give a map-style dataset")
    if not len(dataset):
        raise TaskError(f"{type(dataset).__name__} is empty; give a dataset with images")
    image_key, label_key = _keys(dataset[0])
    found, names = _stored_labels(dataset, label_key), _class_names(dataset, label_key)
    if found is not None and not _gives_what_it_stores(dataset) and not _are_of_items(found, dataset, label_key):
        found = names = None  # its items have labels of their own, which the names do not belong to
    values = [_plain(dataset[i][label_key]) for i in range(len(dataset))] if found is None else found
    if hasattr(_feature(dataset, label_key), "feature") or _is_ragged(values):  # each image has a list of classes
        labels, names = several_labels([[_named(v, names, i) for v in row] for i, row in enumerate(values)])
    else:
        found_labels = np.asarray(values)
        has_own_names = found_labels.dtype.kind in "USO"  # what the dataset calls its classes is then for people
        labels, names = label_space(found_labels, None if has_own_names else names)
    source = type(dataset).__name__
    return LabelledImages(DatasetImages(dataset, image_key), labels, names, source=source, name=source.lower())


def _named(label: Any, names: Sequence[str] | None, index: int) -> str:
    """The name of one of an image's classes.

    Raises:
        TaskError: its number has none.
    """
    if names is None:
        return str(label)
    if not 0 <= label < len(names):
        raise TaskError(f"image {index} has label {label}, but classes are numbered from 0 to {len(names) - 1}")
    return names[label]


def _keys(first: Any) -> tuple[Any, Any]:
    """The keys of image and label in an item."""
    if isinstance(first, (tuple, list)) and len(first) >= 2:
        return 0, 1
    if isinstance(first, dict):
        image = next((key for key in IMAGE_COLUMNS if key in first), None)
        label = next((key for key in LABEL_COLUMNS if key in first), None)
        if image and label:
            return image, label
        raise TaskError(f"items have the columns {', '.join(map(str, first))}; name them 'image' and 'label'")
    raise TaskError(f"items are {type(first).__name__}; give (image, label) pairs or {{'image': ..., 'label': ...}}")


def _class_names(dataset: Any, label_key: Any) -> tuple[str, ...] | None:
    """The names that label numbers refer to, if the dataset knows them; torch's wrappers are looked through.

    Raises:
        TaskError: datasets that are put one after the other have different classes.
    """
    if isinstance(dataset, Subset):
        return _class_names(dataset.dataset, label_key)
    if isinstance(dataset, ConcatDataset):
        known = [_class_names(part, label_key) for part in dataset.datasets]
        for other in known:
            if other != known[0]:
                raise TaskError(
                    f"the datasets of a ConcatDataset have different classes, {_shown(known[0])} and {_shown(other)}; "
                    "their label numbers would mix them up, give them one label space first"
                )
        return known[0]
    if isinstance(label_key, str):
        feature = _feature(dataset, label_key)
        names = getattr(getattr(feature, "feature", feature), "names", None)
        return tuple(names) if names else None
    if getattr(dataset, "target_transform", None) is not None:  # to labels that the names do not belong to
        return None
    names = getattr(dataset, "class_names", None) or getattr(dataset, "classes", None)
    return tuple(str(name) for name in names) if names is not None else None


def _stored_labels(dataset: Any, label_key: Any) -> Sequence[Any] | None:
    """All labels from the column or attribute that holds them, so that no image is decoded for its label."""
    if isinstance(dataset, Subset):
        found = _stored_labels(dataset.dataset, label_key)
        return None if found is None else [found[int(i)] for i in dataset.indices]
    if isinstance(dataset, ConcatDataset):
        parts = [_stored_labels(part, label_key) for part in dataset.datasets]
        known = [part for part in parts if part is not None]
        return [label for part in known for label in part] if len(known) == len(parts) else None
    if isinstance(label_key, str):
        return list(dataset[label_key]) if hasattr(dataset, "column_names") else None
    change = getattr(dataset, "target_transform", None) or _unchanged
    for attribute in ("targets", "labels", "_labels"):
        found = getattr(dataset, attribute, None)
        if found is not None and len(found) == len(dataset):
            return [_plain(change(_plain(label))) for label in found]
    return None


def _gives_what_it_stores(dataset: Any) -> bool:
    """Whether items have the stored labels for sure: by torchvision's own code, with no more than a `target_transform`,
    or by a table of Hugging Face's.
    """
    if isinstance(dataset, Subset):
        return _gives_what_it_stores(dataset.dataset)
    if isinstance(dataset, ConcatDataset):
        return all(map(_gives_what_it_stores, dataset.datasets))
    if hasattr(dataset, "column_names"):  # of Hugging Face; a transform of the user's is a format of its own
        return (getattr(dataset, "format", None) or {}).get("type") is None
    return is_read_by_torchvision(dataset)


def _are_of_items(labels: Sequence[Any], dataset: Any, label_key: Any) -> bool:
    """Whether one item of each label has it, too; items that cannot be read are passed over."""
    first = {str(label): i for i, label in reversed(list(enumerate(labels)))}
    for i in first.values():
        try:
            label = _plain(dataset[i][label_key])
        except UNREADABLE:
            continue
        if not np.array_equal(label, labels[i]):
            return False
    return True


def _feature(dataset: Any, label_key: Any) -> Any:
    """What Hugging Face `datasets` knows of the label column; the feature of a list has that of its entries inside."""
    return (getattr(dataset, "features", None) or {}).get(label_key) if isinstance(label_key, str) else None


def _is_ragged(values: Sequence[Any]) -> bool:
    return isinstance(values[0], (list, tuple)) and len({len(row) for row in values}) > 1


def _unchanged(label: Any) -> Any:
    return label


def _plain(label: Any) -> Any:
    return np.asarray(label)[()] if isinstance(label, (torch.Tensor, np.generic)) else label


def _shown(names: tuple[str, ...] | None) -> str:
    return "no names" if names is None else "(" + ", ".join(names[:4]) + (", ...)" if len(names) > 4 else ")")
