"""The mean of three models that fail differently: Gaussian process, boosted trees, and factorisation."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from adapters import AdapterConfig
from selection.evidence.table import TaskFacts, TrialTable
from selection.recommendation.prediction import Prediction
from selection.recommendation.recommenders import boosted_trees, factorisation
from selection.recommendation.recommenders.gaussian_process import gaussian_process
from selection.recommendation.recommenders.registry import register_recommender


@register_recommender("average")
def average(table: TrialTable, target: TaskFacts, candidates: Sequence[AdapterConfig]) -> Prediction:
    """The mean expectation, with the uncertainty of the Gaussian process."""
    return with_others(gaussian_process(table, target, candidates), table, target, candidates)


def with_others(
    process: Prediction,
    table: TrialTable,
    target: TaskFacts,
    candidates: Sequence[AdapterConfig],
) -> Prediction:
    """What the Gaussian process expects, averaged with what trees and factorisation expect.

    Args:
        process: Of the Gaussian process.
        table: The evidence.
        target: The task.
        candidates: The configurations.
    """
    others = [model.gains(table, [target], candidates)[0] for model in (boosted_trees, factorisation)]
    return dataclasses.replace(process, mean=np.mean([process.mean, *(target.level + own for own in others)], axis=0))
