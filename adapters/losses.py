"""What is minimised, and how often each image is drawn: for balanced, imbalanced and multi-label tasks.

Indices: n image, c class.
"""

from __future__ import annotations

import dataclasses
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from adapters.errors import ConfigError

LossName = Literal["auto", "cross_entropy", "weighted_cross_entropy", "binary_cross_entropy"]
Sampling = Literal["uniform", "balanced"]

LOSSES = ("cross_entropy", "weighted_cross_entropy", "binary_cross_entropy")
SAMPLINGS = ("uniform", "balanced")


@dataclasses.dataclass(frozen=True)
class Loss:
    """The loss of each image.

    Attributes:
        name: One of `LOSSES`.
        label_smoothing: Share of the target that is spread over all classes.
        class_weights: `(C,)`, of mean 1 over the training images; None for 1 each.
    """

    name: str
    label_smoothing: float = 0.0
    class_weights: Tensor | None = None

    def __call__(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Losses `(B,)` in float32 at least.

        Args:
            logits: `(B, C)`.
            targets: Class numbers `(B,)`, or `(B, C)`: of 0 and 1 for binary cross-entropy, otherwise probabilities
                that are smoothed already.
        """
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
        if self.name == "binary_cross_entropy":
            smoothed = targets.to(logits.dtype) * (1 - self.label_smoothing) + self.label_smoothing / 2
            return F.binary_cross_entropy_with_logits(logits, smoothed, reduction="none").mean(dim=1)
        weights = None if self.class_weights is None else self.class_weights.to(logits)
        if targets.ndim == 2:
            return F.cross_entropy(logits, targets.to(logits.dtype), weight=weights, reduction="none")
        return F.cross_entropy(logits, targets, weight=weights, label_smoothing=self.label_smoothing, reduction="none")


def chosen_loss(name: str, multi_label: bool) -> str:
    """The loss that is asked for; `auto` is the one that fits the labels.

    Raises:
        ConfigError: there is no such loss, or it does not fit the labels.
    """
    if name != "auto" and name not in LOSSES:
        raise ConfigError(f"loss={name!r} is unknown; choose from auto, {', '.join(LOSSES)}")
    if name == "auto":
        return "binary_cross_entropy" if multi_label else "cross_entropy"
    if multi_label != (name == "binary_cross_entropy"):
        labels = "rows of 0 and 1 for each class" if multi_label else "one class number an image"
        fitting = "binary_cross_entropy" if multi_label else "cross_entropy or weighted_cross_entropy"
        raise ConfigError(f"loss={name!r} does not fit labels that are {labels}; give {fitting}")
    return name


def chosen_sampling(name: str, multi_label: bool) -> str:
    """The sampling that is asked for.

    Raises:
        ConfigError: there is no such sampling, or it does not fit the labels.
    """
    if name not in SAMPLINGS:
        raise ConfigError(f"sampling={name!r} is unknown; choose from {', '.join(SAMPLINGS)}")
    if name == "balanced" and multi_label:
        raise ConfigError("sampling='balanced' needs one label an image; with several, classes cannot be drawn apart")
    return name


def balancing_weights(labels: Tensor, num_classes: int) -> Tensor:
    """Weights `(C,)` that make all classes that occur count the same: N / (classes that occur * images of the class).

    Their mean over the images is 1; classes without images have 0.
    """
    counts = torch.bincount(labels, minlength=num_classes).double()
    weights = len(labels) / ((counts > 0).sum() * counts)
    return torch.where(counts > 0, weights, 0.0)


def drawn_order(labels: Tensor | None, count: int, num_classes: int) -> Tensor:
    """The images of an epoch `(N,)` from torch's generator: each once, or with labels all classes equally often."""
    if labels is None:
        return torch.randperm(count)
    return torch.multinomial(balancing_weights(labels, num_classes)[labels], count, replacement=True)
