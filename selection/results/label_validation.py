"""How well a tuned model does on images that may be of several classes or none: over all labels, and class by class.

Indices: n image, c class.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from adapters.metrics import Metrics, metrics_of
from selection.results.description import Measured
from selection.results.validation import plain, shares


@dataclasses.dataclass(frozen=True)
class LabelValidation:
    """What was found on labelled images of several labels each.

    Attributes:
        class_names: In the order of the counts.
        images: int64 `(C,)`: how many images are of class c.
        named: int64 `(C,)`: how many were said to be.
        right: int64 `(C,)`: how many were rightly said to be.
        num_images: How many images there were.
        metrics: Over all labels; without a mean average precision where no image is of any class.
        unreadable: What was left out, a sentence each.
    """

    class_names: tuple[str, ...]
    images: npt.NDArray[np.int64]
    named: npt.NDArray[np.int64]
    right: npt.NDArray[np.int64]
    num_images: int
    metrics: Metrics
    unreadable: tuple[str, ...] = ()

    @classmethod
    def of(
        cls,
        probabilities: npt.NDArray[np.float32],
        labels: npt.NDArray[np.int64],
        class_names: tuple[str, ...],
        unreadable: tuple[str, ...] = (),
    ) -> LabelValidation:
        """From probabilities `(N, C)` and labels `(N, C)` of 0 and 1."""
        said = (probabilities > 0.5).astype(np.int64)
        metrics = metrics_of(torch.from_numpy(probabilities - 0.5), torch.from_numpy(labels))
        if not labels.any():  # no class has a precision to average
            metrics = dataclasses.replace(metrics, mean_average_precision=None)
        counts = labels.sum(axis=0), said.sum(axis=0), (labels * said).sum(axis=0)
        return cls(class_names, *counts, len(labels), metrics, unreadable)

    @property
    def measured(self) -> Measured:
        """The share of all labels that are right, and the other metrics."""
        return Measured.of(self.metrics, self.num_images, len(self.class_names))

    @property
    def recall(self) -> npt.NDArray[np.float64]:
        """Share of each class's images that were found, `(C,)`; NaN without images."""
        return shares(self.right, self.images)

    @property
    def precision(self) -> npt.NDArray[np.float64]:
        """Share of the images that were said to be of each class that are, `(C,)`; NaN if none was."""
        return shares(self.right, self.named)

    def __str__(self) -> str:
        mean = self.metrics.mean_average_precision
        return f"Accuracy: {self.measured}. Mean average precision: {'-' if mean is None else f'{mean:.1%}'}."

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        rows = zip(self.class_names, self.images.tolist(), self.recall, self.precision, strict=True)
        classes = [
            {"class": name, "images": images, "recall": plain(recall), "precision": plain(precision)}
            for name, images, recall, precision in rows
        ]
        counts = {"images": self.num_images, "labels": len(self.class_names)}
        return vars(self.metrics) | counts | {"classes": classes, "unreadable": list(self.unreadable)}
