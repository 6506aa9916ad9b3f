"""What recommenders with a fixed number of inputs know of a task, and how far they are off on sources they never saw.

Indices: t task, c configuration.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from adapters import AdapterConfig
from selection.evidence.table import Array, TaskFacts, TrialTable
from selection.recommendation.prediction import Prediction
from selection.recommendation.recommenders.features import task_directions, task_numbers

DIRECTIONS = 5  # of the embeddings: those in which the tasks differ most
FOLDS = 5

Gains = Callable[[TrialTable, Sequence[TaskFacts], Sequence[AdapterConfig]], Array]
"""Learns from a table, and says `(T, C)` what configurations are expected to gain on tasks."""


def side_information(stored: Sequence[TaskFacts], targets: Sequence[TaskFacts]) -> tuple[Array, Array]:
    """Facts, and the embeddings' principal directions, of stored tasks `(T, F)` and of targets `(T', F)`."""
    tasks = [*stored, *targets]
    known = np.hstack([task_numbers(tasks), task_directions(tasks)[:, :DIRECTIONS]])
    return known[: len(stored)], known[len(stored) :]


def predicted(gains: Gains, table: TrialTable, target: TaskFacts, candidates: Sequence[AdapterConfig]) -> Prediction:
    """A prediction from a model that gives no uncertainty: that of its errors on sources it was not shown.

    The errors e_tc of folds of whole sources have a part that all configurations of a task share, and one of their own:
    covariance_cc' = a + b [c = c'], by the method of moments.
    """
    from sklearn.model_selection import GroupKFold

    mean = target.level + gains(table, [target], candidates)[0]
    sources = [task.source for task in table.tasks]
    folds = min(FOLDS, len(set(sources)))
    if folds < 2:
        return Prediction(mean)
    errors = np.full(table.scores.shape, np.nan)
    for learned, asked in GroupKFold(folds).split(sources, groups=sources):
        tasks = [table.tasks[t] for t in asked]
        errors[asked] = table.gains()[asked] - gains(table.of_tasks(learned.tolist()), tasks, table.configs)
    shared, own = variances_of(errors)
    if not np.isfinite(own):  # no task was tuned with two configurations
        return Prediction(mean)
    return Prediction(mean, shared + own * np.eye(len(candidates)))


def variances_of(errors: Array) -> tuple[float, float]:
    """The variance that the errors of a task share, and that of each one's own; infinite where no task has two.

    Args:
        errors: float64 `(T, C)`, NaN where there is none.
    """
    counts = np.isfinite(errors).sum(axis=1)
    errors, counts = errors[counts > 1], counts[counts > 1]
    if not len(errors):
        return 0.0, float("inf")
    means = np.nanmean(errors, axis=1)
    own = float(np.nansum(np.square(errors - means[:, None])) / (counts - 1).sum())
    return max(0.0, float(np.mean(np.square(means) - own / counts))), own
