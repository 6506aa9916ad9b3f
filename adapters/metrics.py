"""How well a classifier does, for balanced, imbalanced and multi-label tasks."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import torch
from torch import Tensor


@dataclasses.dataclass(frozen=True)
class Metrics:
    """Shares in [0, 1] of a set of labelled images.

    Attributes:
        accuracy: Top-1 accuracy; in a multi-label task, share of all pairs of image and class that are right.
        mean_class_accuracy: Mean of the accuracies of the classes that occur, whatever their sizes; in a multi-label
            task, of the shares of each class's images that are found.
        macro_f1: Mean over these classes of the harmonic mean of precision and recall.
        mean_average_precision: In a multi-label task, mean over these classes of the area under the curve of precision
            over recall; None otherwise.
    """

    accuracy: float
    mean_class_accuracy: float
    macro_f1: float
    mean_average_precision: float | None = None


def metrics_of(predicted: Tensor, labels: Tensor) -> Metrics:
    """Compare what a classifier says with the labels.

    Args:
        predicted: Class numbers `(N,)`; for rows of labels, logits `(N, C)`, above 0 for a class that is present.
        labels: Class numbers `(N,)`, or `(N, C)` of 0 and 1.
    """
    from sklearn.metrics import average_precision_score, f1_score, recall_score  # `import adapters` stays light

    if labels.ndim == 2:
        present = labels.any(dim=0).nonzero().flatten().tolist()  # a class without images has no recall
        columns = [(labels[:, c].long(), (predicted[:, c] > 0).long(), predicted[:, c].float()) for c in present]
        return Metrics(
            accuracy=float(((predicted > 0) == labels.bool()).float().mean()),
            mean_class_accuracy=_mean([recall_score(right, found) for right, found, _ in columns]),
            macro_f1=_mean([f1_score(right, found) for right, found, _ in columns]),
            mean_average_precision=_mean([average_precision_score(right, scores) for right, _, scores in columns]),
        )
    classes = torch.unique(labels).tolist()
    chosen = {"labels": classes, "average": "macro", "zero_division": 0.0}
    return Metrics(
        accuracy=int((predicted == labels).sum()) / len(labels),
        mean_class_accuracy=float(recall_score(labels, predicted, **chosen)),
        macro_f1=float(f1_score(labels, predicted, **chosen)),
    )


def _mean(values: Sequence[float]) -> float:
    return float(sum(values) / len(values)) if values else 0.0
