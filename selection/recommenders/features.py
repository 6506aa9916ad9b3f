"""Tasks and configurations as numbers, for recommenders that learn.

Indices: t task, c configuration, d filter.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from adapters import METHODS, AdapterConfig
from selection.recommenders.registry import TaskFacts
from task2vec import TaskEmbedding, mean_log_embedding
from task2vec.distances.log_cosine import logs
from task2vec.distances.of_variances import unit
from task2vec.distances.reference import shipped_reference

Array = npt.NDArray[np.float64]


def task_directions(tasks: Sequence[TaskFacts]) -> Array:
    """Unit vectors `(T, T)` whose squared Euclidean distances are twice the tasks' log_cosine distances.

    They are log embeddings without the reference, in the space that the tasks span.
    """
    embeddings = [task.embedding for task in tasks]
    directions = unit(logs(np.stack([e.fisher for e in embeddings]).astype(np.float64)) - reference_of(embeddings))
    left, singular, _ = np.linalg.svd(directions, full_matrices=False)
    return np.asarray(left * singular)


def reference_of(embeddings: Sequence[TaskEmbedding]) -> Array:
    """What log_cosine subtracts, `(D,)`: shipped with the probe, or the mean of these embeddings."""
    shipped = shipped_reference(embeddings[0].probe)
    return mean_log_embedding(embeddings) if shipped is None else shipped


def config_numbers(configs: Sequence[AdapterConfig]) -> tuple[Array, Array]:
    """Methods `(C, M)` as one of many, and `(C, 4)`: logarithms of size, learning rate over the default, epochs, and
    the share of blocks left out.
    """
    names = sorted(METHODS)
    methods = np.array([[config.method == name for name in names] for config in configs], np.float64)
    numbers = []
    for config in configs:
        default = METHODS[config.method].defaults
        size = config.size or 8
        rate = np.log(config.learning_rate / default["learning_rate"])
        numbers.append([np.log(size / 8), rate, np.log(config.epochs / 15), 0.0 if config.blocks is None else 1.0])
    return methods, np.array(numbers)
