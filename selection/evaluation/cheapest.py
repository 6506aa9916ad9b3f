"""Which is the cheapest configuration that is good enough? How often it is, and what it costs.

Indices: c configuration.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from selection.evaluation.protocol import Target
from selection.recommendation.prediction import Prediction

WITHIN = 0.01  # of the best accuracy
ROUNDING = 1e-12  # 0.71 - 0.70 is more than 0.01


@dataclasses.dataclass(frozen=True)
class CheapChoice:
    """The cheapest configuration that was expected within a point of the best, on a target.

    Attributes:
        is_within: Whether its test accuracy was.
        lost: Test accuracy below the best configuration's.
        cost: Its usual seconds of training as a share of those of the best fixed configuration.
    """

    is_within: bool
    lost: float
    cost: float

    @classmethod
    def of(cls, target: Target, chosen: int, fixed: int) -> CheapChoice:
        """What a configuration is worth; both by their numbers."""
        lost = float(target.scores.max() - target.scores[chosen])
        return cls(lost <= WITHIN + ROUNDING, lost, float(target.costs[chosen] / target.costs[fixed]))


def choose_cheapest(prediction: Prediction, target: Target, fixed: int) -> CheapChoice:
    """What is chosen for a target, and what it is worth.

    Args:
        prediction: What is expected of its configurations.
        target: The target.
        fixed: The number of the configuration that is best on average elsewhere.
    """
    return CheapChoice.of(target, prediction.cheapest_within(target.costs, WITHIN), fixed)


def cheapest_in_truth(target: Target, fixed: int) -> CheapChoice:
    """What somebody who knew the scores would choose."""
    return choose_cheapest(Prediction(target.scores, np.zeros((len(target.scores),) * 2)), target, fixed)
