"""The cosine distance of log embeddings, after what all tasks of a probe share is taken out."""

from __future__ import annotations

import numpy as np

from task2vec.distances.logarithms import logs
from task2vec.distances.of_variances import angular
from task2vec.distances.registry import Matrix, Options, register_distance
from task2vec.distances.sketch import Array, Sketch, register_estimate
from task2vec.errors import DistanceError


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
            "log_cosine needs the mean log embedding of many tasks under the same probe and layers; pass "
            "reference=task2vec.mean_log_embedding(embeddings), or choose another distance, such as cosine"
        )
    return angular(logs(a) - options.reference, logs(b) - options.reference)


@register_estimate("log_cosine")
def estimated(stored: Sketch, target: Sketch, num_filters: int) -> Array:
    """A cosine of the sketches themselves, their centre being the reference."""
    return -(stored.projected @ target.projected[0]) / np.sqrt(stored.square + np.finfo(np.float32).tiny)
