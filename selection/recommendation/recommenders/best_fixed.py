"""The configuration that gained most on average, whatever the target: the baseline to beat."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from adapters import AdapterConfig
from selection.evidence.table import TaskFacts, TrialTable
from selection.recommendation.prediction import Prediction
from selection.recommendation.recommenders.registry import register_recommender


@register_recommender("best_fixed")
def best_fixed(table: TrialTable, target: TaskFacts, candidates: Sequence[AdapterConfig]) -> Prediction:
    """Mean gain of each configuration over all tasks that tried it, added to what a linear probe reaches."""
    gains = table.gains()
    mean = np.full(len(candidates), -np.inf)
    for i, config in enumerate(candidates):
        if config in table.configs:
            column = gains[:, table.configs.index(config)]
            if np.isfinite(column).any():
                mean[i] = target.level + np.nanmean(column)
    return Prediction(mean)
