"""When to give a training up: its first epochs promise nothing better than what there is."""

from __future__ import annotations

from collections.abc import Sequence

from scipy.stats import norm

from selection.recommendation.learning_curves import LearningCurves

LEAST_CHANCE = 0.1  # of ending above the best; with less a training is given up
LEAST_SHARE = 0.15  # of a training, before which nothing is given up


def promises_nothing(curves: LearningCurves, seen: Sequence[float], share: float, best: float) -> bool:
    """Whether a training is unlikely to end above `best`.

    Args:
        curves: Learned from stored trials.
        seen: Validation accuracies of its last epochs so far.
        share: Of all epochs, how many are over.
        best: Last validation accuracy of the best finished training.
    """
    if not LEAST_SHARE <= share < 1:
        return False
    mean, variance = curves.end(seen, share)
    return bool(norm.sf(best, mean, variance**0.5) < LEAST_CHANCE)
