"""Factorisation of the table of gains, with what is known of tasks as side information.

Indices: t task, c configuration, r factor.

    gain_tc = m_c + sum_r u_tr v_cr

m is what configurations gain on an average task (`best_fixed`). Missing gains are filled in by the factorisation
itself, again and again (Mazumder, Hastie and Tibshirani 2010, with a fixed rank), and a ridge regression from facts and
embedding gives the u_t of a task on which nothing was tried.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from adapters import AdapterConfig
from selection.evidence.table import Array, TaskFacts, TrialTable
from selection.recommendation.prediction import Prediction
from selection.recommendation.recommenders.best_fixed import average_gains
from selection.recommendation.recommenders.registry import register_recommender
from selection.recommendation.recommenders.side_information import predicted, side_information

RANK = 3
SHRINKAGE = 0.1  # taken off singular values, as a share of the largest
ROUNDS = 30
PENALTIES = np.logspace(0, 4, 17)  # of the ridge regression, chosen by leaving tasks out


@register_recommender("factorisation")
def factorisation(table: TrialTable, target: TaskFacts, candidates: Sequence[AdapterConfig]) -> Prediction:
    """The gains of the formula above over the target's linear probe."""
    return predicted(gains, table, target, candidates)


def gains(
    table: TrialTable,
    targets: Sequence[TaskFacts],
    candidates: Sequence[AdapterConfig],
) -> Array:
    """See `Gains`; a configuration that no stored task was tuned with is expected to gain nothing."""
    average, tasks, configs = factors_of(table.gains())
    columns = {config: c for c, config in enumerate(table.configs)}
    known, asked = side_information(table.tasks, targets)
    found = average + _factors_from_side_information(known, tasks, asked) @ configs.T
    nothing = np.zeros(len(targets))
    return np.stack([found[:, columns[c]] if c in columns else nothing for c in candidates], axis=1)


def _factors_from_side_information(known: Array, factors: Array, asked: Array) -> Array:
    """u `(T', R)` of targets, from what is known of them `(T', F)`, as that goes with u `(T, R)` on stored tasks."""
    from sklearn.linear_model import RidgeCV
    from sklearn.preprocessing import StandardScaler

    if len(known) == 1:  # which leaves nothing to learn how they go together from
        return np.repeat(factors, len(asked), axis=0)
    scaler = StandardScaler().fit(known)
    ridge = RidgeCV(PENALTIES).fit(scaler.transform(known), factors)
    return np.asarray(ridge.predict(scaler.transform(asked))).reshape(len(asked), -1)


def factors_of(values: Array) -> tuple[Array, Array, Array]:
    """m `(C,)`, u `(T, R)` and v `(C, R)` for a table `(T, C)` with NaN where nothing is known."""
    known = np.isfinite(values)
    average = np.nan_to_num(average_gains(values))
    centred = np.where(known, values - average, 0.0)
    filled = centred
    for _ in range(ROUNDS):
        left, singular, right = np.linalg.svd(filled, full_matrices=False)
        kept = np.maximum(singular - SHRINKAGE * singular[0], 0)[:RANK]
        tasks, configs = left[:, :RANK] * kept, right[:RANK].T
        filled = np.where(known, centred, tasks @ configs.T)
    return average, tasks, configs
