"""What worked on the nearest tasks.

Indices: t neighbour, c configuration.

With log_cosine distances d_t and weights w_t proportional to 1 / d_t^2 (Shepard 1968), a configuration's gain on a task
is its score over the linear probe's, so that easy tasks do not make their configurations look good:

    predicted_c = probe of the target + sum_t w_t gain_tc

The sum runs over the nearest tasks on which c was tried, with weights that sum to 1.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from adapters import AdapterConfig
from selection.evidence.table import Array, TaskFacts, TrialTable
from selection.recommendation.prediction import Prediction
from selection.recommendation.recommenders.features import reference_of
from selection.recommendation.recommenders.registry import register_recommender
from task2vec import distance_matrix

NEIGHBOURS = 5


@register_recommender("nearest_vote")
def nearest_vote(table: TrialTable, target: TaskFacts, candidates: Sequence[AdapterConfig]) -> Prediction:
    """The prediction of the formula above, from the five nearest of the tasks on which a configuration was tried."""
    distances = distances_to(table, target)
    order = np.argsort(distances, kind="stable")
    gains = table.gains()[order]
    mean = np.full(len(candidates), -np.inf)
    for i, config in enumerate(candidates):
        if config not in table.configs:
            continue
        column = gains[:, table.configs.index(config)]
        nearest = np.flatnonzero(np.isfinite(column))[:NEIGHBOURS]
        if len(nearest):
            mean[i] = target.level + shepard_weights(distances[order][nearest]) @ column[nearest]
    return Prediction(mean)


def distances_to(table: TrialTable, target: TaskFacts) -> Array:
    """log_cosine from each stored task to the target, `(T,)`."""
    stored = [task.embedding for task in table.tasks]
    reference = reference_of([*stored, target.embedding])
    return distance_matrix(stored, "log_cosine", [target.embedding], reference=reference)[:, 0]


def shepard_weights(distances: Array) -> Array:
    """Weights that sum to 1, proportional to the inverse square of the distance; asymmetric ones may be negative."""
    positive = distances - min(0.0, float(distances.min()))
    inverse = 1 / (positive + 1e-6) ** 2
    return np.asarray(inverse / inverse.sum())
