"""The configuration that gains most on average, whatever the target: the baseline to beat.

    gain_tc = a_t + b_c + noise

Indices: t stored task, c configuration. Where not every configuration was tried on every task, the mean over those that
tried it would favour what was tried where there is much to gain; a_t, how much that is, is fitted beside b_c.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from adapters import AdapterConfig
from selection.evidence.table import Array, TaskFacts, TrialTable
from selection.recommendation.prediction import Prediction
from selection.recommendation.recommenders.registry import register_recommender


@register_recommender("best_fixed")
def best_fixed(table: TrialTable, target: TaskFacts, candidates: Sequence[AdapterConfig]) -> Prediction:
    """Each configuration's gain on an average task, added to what a linear probe reaches."""
    average = dict(zip(table.configs, average_gains(table.gains()), strict=True))
    gains = np.array([average.get(config, np.nan) for config in candidates])
    return Prediction(np.where(np.isfinite(gains), target.level + gains, -np.inf))


def average_gains(gains: Array) -> Array:
    """b_c and the mean of a_t, by least squares, `(C,)`, from a table `(T, C)` with NaN where nothing was tried."""
    t, c = np.nonzero(np.isfinite(gains))
    rows = np.zeros((len(t), sum(gains.shape)))
    rows[np.arange(len(t)), t] = rows[np.arange(len(t)), len(gains) + c] = 1
    fitted = np.linalg.lstsq(rows, gains[t, c], rcond=None)[0]
    tasks, configs = np.split(fitted, [len(gains)])
    known = np.isfinite(gains)
    found = np.where(known.any(axis=0), configs + tasks[known.any(axis=1)].mean(), np.nan)
    return np.asarray(found)
