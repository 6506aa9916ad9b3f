"""The task's own classifier: a linear head fitted on the probe's features.

Indices: n image, d feature, c class.
"""

from __future__ import annotations

import dataclasses
import warnings
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.floating[Any]]

MAX_ITERATIONS = 2000
TOLERANCE = 1e-8  # of the largest gradient entry: the Fisher of a classifier that stopped early depends on where it did
FOLDS = 5  # of the cross-validation
TOLERANCE_IN_FOLDS = 1e-4  # an accuracy needs no more
LEAST_SCALE = 0.01  # of the features' median standard deviation


@dataclasses.dataclass(frozen=True)
class Classifier:
    """A linear classifier on features: `logits = features @ weight.T + bias`.

    Attributes:
        weight: float32 `(C, d)`.
        bias: float32 `(C,)`; where an image has one class, minus infinity for a class without images.
        l2: The strength of the penalty it was fitted with.
        accuracy: Share of the task's images that it puts into their class, those it was fitted on; of images and
            classes in a multi-label task. Classes without images do not count.
        cross_validated: The same for images that it was not fitted on, from five folds; None if not measured.
    """

    weight: npt.NDArray[np.float32]
    bias: npt.NDArray[np.float32]
    l2: float
    accuracy: float
    cross_validated: float | None = None


def fit_classifier(features: Array, labels: npt.NDArray[np.int64], num_classes: int, *, l2: float) -> Classifier:
    """Logistic regression on standardised features, by L-BFGS in float64: multinomial, or one for each class.

    Minimises `mean_n cross_entropy_n + l2 / 2 * |W|^2`, where W acts on features of zero mean and unit variance. A
    strong penalty keeps the classifier from saturating: a classifier that is sure of every image has gradients, and so
    a Fisher, of nearly zero. The standardisation is folded into the returned weight and bias.

    A nearly constant feature is divided by `LEAST_SCALE` of the median standard deviation instead of its own: brought
    to unit variance, its noise would get the largest weights of all, and the Fisher would be about little else.

    Args:
        features: `(N, d)`.
        labels: `(N,)` in `[0, num_classes)`, or `(N, num_classes)` of 0 and 1.
        num_classes: C. A class without images keeps a row of zeros, and where an image has one class a bias of minus
            infinity: its probability is 0, and the others are what they would be without it.
        l2: Strength of the penalty, above 0.
    """
    weight, bias = _fit(features, labels, num_classes, l2, TOLERANCE)
    accuracy = _accuracy(_right(features @ weight.T + bias, labels), labels)
    return Classifier(weight.astype(np.float32), bias.astype(np.float32), l2, accuracy)


def cross_validated_accuracy(
    features: Array, labels: npt.NDArray[np.int64], num_classes: int, *, l2: float, seed: int = 0
) -> float:
    """Share of images that a classifier fitted on the other four fifths puts into their class (or of images and
    classes, in a multi-label task).

    The folds are drawn at random, each class spread evenly over them. See `share_of_held_out` for a class's only image.

    Args:
        features: `(N, d)`.
        labels: `(N,)` in `[0, num_classes)`, or `(N, num_classes)` of 0 and 1.
        num_classes: C.
        l2: Strength of the penalty, as for `fit_classifier`.
        seed: Fixes the folds.
    """
    order = np.random.default_rng(seed).permutation(len(labels))
    if labels.ndim == 1:
        order = order[np.argsort(labels[order], kind="stable")]
    fold = np.empty(len(labels), np.int64)
    fold[order] = np.arange(len(labels)) % FOLDS
    right = np.zeros(labels.shape, bool)
    for number in range(min(FOLDS, len(labels))):
        held, learned = fold == number, fold != number
        if labels.ndim == 1 and len(np.unique(labels[learned])) < 2:
            continue
        weight, bias = _fit(features[learned], labels[learned], num_classes, l2, TOLERANCE_IN_FOLDS)
        right[held] = _right(features[held] @ weight.T + bias, labels[held])
    return share_of_held_out(right, labels)


def share_of_held_out(right: npt.NDArray[np.bool_], labels: npt.NDArray[np.int64]) -> float:
    """Share of images that were put into their class by other images.

    Nobody can tell a class by other images of it where it has one image: such images do not count. Where all classes
    are of that kind nothing is known, and it is chance.

    Args:
        right: bool `(N,)`, or `(N, C)` where an image has several labels.
        labels: As for `cross_validated_accuracy`.
    """
    if labels.ndim == 2:
        return _accuracy(right, labels)
    _, number, counts = np.unique(labels, return_inverse=True, return_counts=True)
    counted = counts[number] > 1
    return float(right[counted].mean()) if counted.any() else 1 / len(counts)


Fit = tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]


def _fit(features: Array, labels: npt.NDArray[np.int64], num_classes: int, l2: float, tolerance: float) -> Fit:
    """Weight `(C, d)` and bias `(C,)` on the features as they are."""
    mean, scale = features.mean(axis=0, dtype=np.float64), features.std(axis=0, dtype=np.float64)
    usual = float(np.median(scale[scale > 0])) if (scale > 0).any() else 1.0
    scale = np.maximum(scale, LEAST_SCALE * usual)
    standardised = (features - mean) / scale
    fit = _fit_one_of_many if labels.ndim == 1 else _fit_each
    weight, bias = fit(standardised, labels, num_classes, l2, tolerance)
    weight /= scale
    return weight, bias - weight @ mean


def _right(logits: Array, labels: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
    return np.asarray((logits.argmax(axis=1) == labels) if labels.ndim == 1 else ((logits > 0) == labels))


def _accuracy(right: npt.NDArray[np.bool_], labels: npt.NDArray[np.int64]) -> float:
    """Share of images; of images and classes that have an image, as the others are no feat."""
    return float((right if labels.ndim == 1 else right[:, labels.any(axis=0)]).mean())


def _fit_one_of_many(
    features: Array, labels: npt.NDArray[np.int64], num_classes: int, l2: float, tolerance: float
) -> Fit:
    """Weight `(C, d)` and bias `(C,)` of a softmax over the classes."""
    present = np.unique(labels)
    # Two classes have one row w, which stands for the rows -w/2 and w/2 here: |W|^2 = |w|^2 / 2.
    rows, offsets = _logistic_regression(features, labels, l2 / 2 if len(present) == 2 else l2, tolerance)
    if len(present) == 2:
        rows, offsets = np.concatenate([-rows, rows]) / 2, np.concatenate([-offsets, offsets]) / 2
    weight, bias = np.zeros((num_classes, features.shape[1])), np.full(num_classes, -np.inf)
    weight[present], bias[present] = rows, offsets
    return weight, bias


def _fit_each(features: Array, labels: npt.NDArray[np.int64], num_classes: int, l2: float, tolerance: float) -> Fit:
    """Weight `(C, d)` and bias `(C,)` of a sigmoid for each class by itself.

    A class that all images have, or none, keeps a row of zeros and the log odds of one image more on either side.
    """
    counts = labels.sum(axis=0)
    weight, bias = np.zeros((num_classes, features.shape[1])), np.log((counts + 1) / (len(labels) - counts + 1))
    for c in np.flatnonzero((counts > 0) & (counts < len(labels))):
        rows, offsets = _logistic_regression(features, labels[:, c], l2, tolerance)
        weight[c], bias[c] = rows[0], offsets[0]
    return weight, bias


def _logistic_regression(features: Array, labels: npt.NDArray[np.int64], l2: float, tolerance: float) -> Fit:
    """Coefficients of `mean_n cross_entropy_n + l2 / 2 * |W|^2`; scikit-learn's C is on the sum of the losses."""
    from sklearn.exceptions import ConvergenceWarning  # takes a second to load
    from sklearn.linear_model import LogisticRegression

    model = LogisticRegression(C=1 / (l2 * len(labels)), max_iter=MAX_ITERATIONS, tol=tolerance)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        # With few images a class, scikit-learn wonders whether class numbers are measurements.
        warnings.filterwarnings("ignore", "The number of unique classes", UserWarning)
        model.fit(features, labels)
    return model.coef_, model.intercept_
