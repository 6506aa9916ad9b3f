"""Which configuration is the best? What a row's choice is worth before and after tries on the target.

Indices: t target, c configuration.

On a target whose configurations scored s_c, with the best b = max s and the average a = mean s, a choice c has the
normalised regret (b - s_c) / (b - a): 0 for the best configuration, 1 for the average one. Tries on the target reveal
validation accuracies, as a user would see them; the scores that count are those on test images.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np
from scipy.stats import norm, spearmanr

from selection.evaluation.protocol import Target
from selection.evaluation.summary import Mean, mean_over_sources
from selection.evidence.table import Array
from selection.recommendation.observed import validation_variance
from selection.recommendation.prediction import COVERAGE, Prediction, interval_around

TRIES = (0, 1, 3)


@dataclasses.dataclass(frozen=True)
class Choice:
    """A configuration chosen for a target.

    Attributes:
        regret: Normalised, as above.
        lost: Test accuracy below the best configuration's.
        deviation: Of the score from the accuracy that was expected, in standard deviations; NaN without any.
        width: Of the 80% interval, as users see it.
    """

    regret: float
    lost: float
    deviation: float
    width: float

    def inside(self, share: float = COVERAGE) -> float:
        """1 if the score lay in the central interval of that share, otherwise 0; NaN without an interval."""
        if not np.isfinite(self.deviation):
            return float("nan")
        return float(abs(self.deviation) <= norm.ppf(0.5 + share / 2))


def choose(prediction: Prediction, target: Target, tries: int = 0) -> Choice:
    """What is chosen after so many tries, or after all candidates if there are fewer."""
    seen: list[tuple[int, float, float]] = []
    while len(seen) < min(tries, len(target.scores)):
        number = prediction.next_try(seen)
        accuracy = float(target.validation[number])
        seen.append((number, accuracy, validation_variance(accuracy, target.num_validation)))
    chosen, after = prediction.choice(seen), prediction.given(seen)
    best, score, std = target.scores.max(), target.scores[chosen], float(after.std[chosen])
    low, high = interval_around(float(after.mean[chosen]), std)
    return Choice(
        regret=float((best - score) / max(best - target.scores.mean(), 1e-9)),
        lost=float(best - score),
        deviation=float(score - np.clip(after.mean[chosen], 0, 1)) / std,
        width=high - low,
    )


def rank_correlation(a: Array, b: Array) -> float:
    """Spearman's; NaN where one of them is constant."""
    return float(spearmanr(a, b).statistic) if np.ptp(a) > 0 and np.ptp(b) > 0 else float("nan")


def gains(accuracies: Array, target: Target) -> Array:
    """By how much accuracies `(C,)` of a target's configurations exceed the linear probe's among them.

    Without that one they are `(C - 1,)`. Where none was tried, all are counted from the probe that facts tell of.
    """
    if target.linear is None:
        return accuracies - target.facts.level
    return np.delete(accuracies, target.linear) - accuracies[target.linear]


def differences(accuracies: Array, target: Target) -> Array:
    """By how much accuracies `(C,)` of a target's configurations exceed their mean: all that a choice goes by."""
    return accuracies - accuracies.mean()


Part = Callable[[Array, Target], Array]
"""What of accuracies `(C,)` of a target's configurations is to be explained: `gains` or `differences`."""


def explained(part: Part, predictions: Sequence[Prediction], targets: Sequence[Target]) -> Mean:
    """The share of a part's variance that a row explains.

    It is 1 - sum_tc (g_tc - expected_tc)^2 / sum_tc (g_tc - mean)^2 with the mean of all g. Scores and linear probe are
    of the same test images, so that what sets these apart from the training images plays no part.

    Args:
        part: Gives g of the scores, and what is expected of g.
        predictions: One for each target.
        targets: Tasks whose answers are known.
    """
    unexplained = mean_over_sources(_errors(part, predictions, targets), *_spread(part, targets))
    return Mean(1 - unexplained.value, 1 - unexplained.high, 1 - unexplained.low)


def explained_beyond(
    part: Part, predictions: Sequence[Prediction], others: Sequence[Prediction], targets: Sequence[Target]
) -> Mean:
    """By how much larger that share is than another row's."""
    fewer = _errors(part, others, targets) - _errors(part, predictions, targets)
    return mean_over_sources(fewer, *_spread(part, targets))


def _errors(part: Part, predictions: Sequence[Prediction], targets: Sequence[Target]) -> Array:
    """sum_c (g_tc - expected_tc)^2 of each target, `(T,)`."""
    pairs = zip(predictions, targets, strict=True)
    return np.array([np.square(part(t.scores, t) - part(p.mean, t)).sum() for p, t in pairs])


def _spread(part: Part, targets: Sequence[Target]) -> tuple[list[str], Array]:
    """Sources of the targets, and sum_c (g_tc - mean)^2 of each, `(T,)`."""
    true = [part(target.scores, target) for target in targets]
    average = np.mean(np.concatenate(true))
    spread = np.array([np.square(own - average).sum() for own in true])
    return [target.facts.source for target in targets], spread
