"""How well a ridge regression tells classes apart, each image left out in turn, in closed form.

Indices: i image, c class, k eigenvector.

With the gram matrix of centred features K = V diag(s) V', targets Y (1 for an image's class and -1 for the others,
centred) and the fit H Y, H = V diag(s / (s + penalty)) V' + 1 / n, what is predicted for an image that was left out is

    y_i - (y_i - (H Y)_i) / (1 - h_ii)    (Rifkin and Lippert 2007, Notes on Regularized Least Squares, section 3.3)

so that one eigendecomposition serves all images and all penalties.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from task2vec.classifier import share_of_held_out

Array = npt.NDArray[np.float64]

PENALTIES = 10.0 ** np.arange(-6, 1.5, 0.5)  # on features whose gram matrix has a mean diagonal of 1


def leave_one_out_accuracy(features: Array, labels: npt.NDArray[np.int64], num_classes: int) -> float:
    """Share of images that are put into their class by the others, at the penalty with the least squared error; see
    `task2vec.classifier.share_of_held_out` for a class's only image.

    Args:
        features: float64 `(N, d)`.
        labels: int64 `(N,)`.
        num_classes: C.
    """
    centred = features - features.mean(axis=0)
    gram = centred @ centred.T
    values, vectors = np.linalg.eigh(gram / max(np.trace(gram) / len(gram), np.finfo(np.float64).tiny))
    values = np.maximum(values, 0)
    targets = 2 * np.eye(num_classes)[labels] - 1
    usual = targets.mean(axis=0)
    targets -= usual
    projected = vectors.T @ targets
    least, accuracy = np.inf, 0.0
    for penalty in PENALTIES:
        kept = values / (values + penalty)
        left = targets - (vectors * kept) @ projected
        own = np.square(vectors) @ kept + 1 / len(gram)
        predicted = targets - left / np.maximum(1 - own, np.finfo(np.float64).eps)[:, None]
        error = float(np.square(targets - predicted).mean())
        if error < least:
            least, accuracy = error, share_of_held_out((predicted + usual).argmax(axis=1) == labels, labels)
    return accuracy
