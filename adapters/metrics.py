"""How well a classifier does, for balanced and for imbalanced tasks."""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor


@dataclasses.dataclass(frozen=True)
class Metrics:
    """Shares in [0, 1] of a set of labelled images.

    Attributes:
        accuracy: Top-1 accuracy.
        mean_class_accuracy: Mean of the accuracies of the classes that occur, whatever their sizes.
        macro_f1: Mean over these classes of the harmonic mean of precision and recall.
    """

    accuracy: float
    mean_class_accuracy: float
    macro_f1: float


def metrics_of(predicted: Tensor, labels: Tensor) -> Metrics:
    """Compare two vectors of class numbers of the same length."""
    from sklearn.metrics import f1_score, recall_score  # `import adapters` stays light

    classes = torch.unique(labels).tolist()
    chosen = {"labels": classes, "average": "macro", "zero_division": 0.0}
    return Metrics(
        accuracy=int((predicted == labels).sum()) / len(labels),
        mean_class_accuracy=float(recall_score(labels, predicted, **chosen)),
        macro_f1=float(f1_score(labels, predicted, **chosen)),
    )
