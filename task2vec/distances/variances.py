"""An embedding as the variances of a Gaussian over weights: the inverse of its entries."""

from __future__ import annotations

import numpy as np

from task2vec.distances.registry import Matrix

FLOOR = 1e-12  # below this share of its task's mean Fisher a filter is dead, and its variance would be infinite


def variances(a: Matrix) -> Matrix:
    """1 / a, dead filters at the floor, `(n, D)`."""
    floor = FLOOR * a.mean(axis=1, keepdims=True) + np.finfo(np.float32).tiny
    return np.asarray(1 / np.maximum(a, floor))
