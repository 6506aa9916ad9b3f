"""Labels: class numbers, or a row of 0 and 1 for each image."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from adapters.errors import TrainingError


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


def class_number(label: Any, index: int) -> Any:
    """The label of one image as a number, or as a row of 0 and 1.

    Raises:
        TrainingError: it is neither.
    """
    if getattr(label, "ndim", 0) == 1 or isinstance(label, (list, tuple)):
        return class_numbers(torch.as_tensor(label)[None])[0]
    number = int(label)
    if number < 0 or number != label:
        raise TrainingError(f"label {label} of image {index} is not a class number; number classes from 0")
    return number


def check_range(labels: Tensor, num_classes: int, name: str) -> None:
    """Make sure that labels, on the CPU, fit a classifier.

    Raises:
        TrainingError: one does not; says which.
    """
    if labels.ndim == 2:
        if labels.shape[1] != num_classes:
            raise TrainingError(
                f"{name} labels are rows of {labels.shape[1]} classes, but the classifier has {num_classes}; attach "
                f"with num_classes={labels.shape[1]}"
            )
        return
    largest = int(labels.max())
    if largest >= num_classes:
        raise TrainingError(f"{name} label {largest} exceeds the classifier's {num_classes} classes")
