"""The cosine distance of log embeddings, after what all tasks of a probe share is taken out."""

from __future__ import annotations

import numpy as np

from task2vec.distances.of_variances import angular
from task2vec.distances.registry import Matrix, Options, register_distance
from task2vec.errors import DistanceError

# Below this share of a task's mean Fisher a filter counts as dead: its logarithm would say nothing but drown the rest.
FLOOR = 1e-6


@register_distance("log_cosine")
def log_cosine(a: Matrix, b: Matrix, options: Options) -> Matrix:
    """1 - cos(log a - r, log b - r) with the reference r, the mean log embedding of many tasks under the same probe.

    All tasks of one probe share a shape, and differ most in overall size; both hide what is particular to a task. The
    reference takes out the first and the cosine the second.

    Raises:
        DistanceError: no reference is known for the probe.
    """
    if options.reference is None:
        raise DistanceError(
            "log_cosine needs the mean log embedding of many tasks under the same probe; "
            "pass reference=task2vec.mean_log_embedding(embeddings)"
        )
    return angular(logs(a) - options.reference, logs(b) - options.reference)


def logs(a: Matrix) -> Matrix:
    """Log a, with dead filters at the floor, `(n, D)`."""
    return np.asarray(np.log(alive(a)))


def alive(a: Matrix) -> Matrix:
    """Embeddings with dead filters at the floor, so that they have a logarithm, `(n, D)`."""
    return np.asarray(np.maximum(a, FLOOR * a.mean(axis=1, keepdims=True)))
