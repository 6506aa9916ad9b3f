"""Gradient-boosted trees (Friedman 2001) on facts, embedding and settings, of what tuning gains over a linear probe."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from adapters import AdapterConfig
from selection.evidence.table import Array, TaskFacts, TrialTable
from selection.recommendation.prediction import Prediction
from selection.recommendation.recommenders.features import config_numbers
from selection.recommendation.recommenders.registry import register_recommender
from selection.recommendation.recommenders.side_information import predicted, side_information

SETTINGS = {"n_estimators": 150, "learning_rate": 0.05, "max_depth": 3, "random_state": 0}
SUBSAMPLE = 0.7  # of the observations, at least one


@register_recommender("boosted_trees")
def boosted_trees(table: TrialTable, target: TaskFacts, candidates: Sequence[AdapterConfig]) -> Prediction:
    """The trees' gains over the target's linear probe."""
    return predicted(gains, table, target, candidates)


def gains(
    table: TrialTable,
    targets: Sequence[TaskFacts],
    candidates: Sequence[AdapterConfig],
) -> Array:
    """See `Gains`."""
    from sklearn.ensemble import GradientBoostingRegressor

    stored, asked = side_information(table.tasks, targets)
    settings = np.hstack(config_numbers([*table.configs, *candidates]))
    pairs = np.argwhere(np.isfinite(table.scores))
    rows = np.hstack([stored[pairs[:, 0]], settings[pairs[:, 1]]])
    drawn = max(SUBSAMPLE, 1 / len(rows))
    trees = GradientBoostingRegressor(**SETTINGS, subsample=drawn).fit(
        rows, table.gains()[tuple(pairs.T)], sample_weight=table.repeats[tuple(pairs.T)]
    )
    t, c = np.divmod(np.arange(len(targets) * len(candidates)), len(candidates))
    wanted = np.hstack([asked[t], settings[len(table.configs) :][c]])
    return np.asarray(trees.predict(wanted)).reshape(len(targets), len(candidates))
