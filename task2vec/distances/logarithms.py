"""Log embeddings."""

from __future__ import annotations

import numpy as np

from task2vec.distances.registry import Matrix

# Below this share of a task's mean Fisher a filter counts as dead: its logarithm would say nothing but drown the rest.
FLOOR = 1e-6


def logs(a: Matrix) -> Matrix:
    """Log a, with dead filters at the floor, `(n, D)`."""
    return np.asarray(np.log(alive(a)))


def alive(a: Matrix) -> Matrix:
    """Embeddings with dead filters at the floor, so that they have a logarithm, `(n, D)`."""
    return np.asarray(np.maximum(a, FLOOR * a.mean(axis=1, keepdims=True)))
