"""The task's own classifier: a linear head fitted on the probe's features.

Indices: n image, d feature, c class.
"""

from __future__ import annotations

import dataclasses
import warnings
from typing import Any

import numpy as np
import numpy.typing as npt
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression

Array = npt.NDArray[np.floating[Any]]

MAX_ITERATIONS = 2000
TOLERANCE = 1e-8  # of the largest gradient entry: the Fisher of a classifier that stopped early depends on where it did


@dataclasses.dataclass(frozen=True)
class Classifier:
    """A linear classifier on features: `logits = features @ weight.T + bias`.

    Attributes:
        weight: float32 `(C, d)`.
        bias: float32 `(C,)`.
        l2: The strength of the penalty it was fitted with.
        accuracy: Share of the task's images that it puts into their class, those it was fitted on.
    """

    weight: npt.NDArray[np.float32]
    bias: npt.NDArray[np.float32]
    l2: float
    accuracy: float

    def probabilities(self, features: Array) -> npt.NDArray[np.float64]:
        """Class probabilities `(N, C)` of features `(N, d)`, in float64."""
        logits = features.astype(np.float64) @ self.weight.T.astype(np.float64) + self.bias
        unnormalised = np.exp(logits - logits.max(axis=1, keepdims=True))
        return np.asarray(unnormalised / unnormalised.sum(axis=1, keepdims=True), np.float64)


def fit_classifier(features: Array, labels: npt.NDArray[np.int64], num_classes: int, *, l2: float) -> Classifier:
    """Multinomial logistic regression on standardised features, by L-BFGS in float64.

    Minimises `mean_n cross_entropy_n + l2 / 2 * |W|^2`, where W acts on features of zero mean and unit variance. A
    strong penalty keeps the classifier from saturating: a classifier that is sure of every image has gradients, and so
    a Fisher, of nearly zero. The standardisation is folded into the returned weight and bias.

    Args:
        features: `(N, d)`.
        labels: `(N,)` in `[0, num_classes)`.
        num_classes: C. A class without images keeps a row of zeros and the smallest bias.
        l2: Strength of the penalty, above 0.
    """
    mean, scale = features.mean(axis=0, dtype=np.float64), features.std(axis=0, dtype=np.float64)
    scale[scale < 1e-12] = 1.0
    standardised = (features - mean) / scale
    present = np.unique(labels)
    # scikit-learn's objective is C * sum_n loss_n + |W|^2 / 2. Its two-class model has one row w, which stands for the
    # rows -w/2 and w/2 here: |W|^2 = |w|^2 / 2, hence the factor of two.
    strength = 1 / (l2 * len(labels)) * (2 if len(present) == 2 else 1)
    model = LogisticRegression(C=strength, max_iter=MAX_ITERATIONS, tol=TOLERANCE)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        model.fit(standardised, labels)
    rows, offsets = model.coef_, model.intercept_
    if len(present) == 2:
        rows, offsets = np.concatenate([-rows, rows]) / 2, np.concatenate([-offsets, offsets]) / 2
    weight, bias = np.zeros((num_classes, features.shape[1])), np.full(num_classes, offsets.min())
    weight[present] = rows / scale
    bias[present] = offsets - weight[present] @ mean
    accuracy = float((present[(standardised @ rows.T + offsets).argmax(axis=1)] == labels).mean())
    return Classifier(weight.astype(np.float32), bias.astype(np.float32), l2, accuracy)
