"""What repeating a trial with another seed says of the scores, and what it leaves of a choice.

Indices: r configuration that was tuned with both seeds, s seed.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from selection.evaluation.cheapest import ROUNDING, WITHIN
from selection.evaluation.protocol import Target
from selection.evidence.table import Array

FEWEST = 3  # configurations that a choice among them tells something of


class Judged(NamedTuple):
    """A choice among the configurations that were tuned with two seeds, judged by each seed's scores in turn.

    Attributes:
        regret: Normalised as in `best.py`, the mean of both.
        lost: Test accuracy below the best configuration's, the mean of both.
        within: How often it was within one point of the best.
    """

    regret: float
    lost: float
    within: float


def judged_by_both(target: Target, expected: Array) -> Judged:
    """The configuration of the highest expectation, judged by the scores of each seed.

    Args:
        target: A task. Where fewer than three of its configurations were tuned with two seeds, all is NaN.
        expected: float64 `(C,)`, of all its configurations.
    """
    if len(target.twice) < FEWEST:
        return Judged(np.nan, np.nan, np.nan)
    chosen = int(np.argmax(expected[target.twice]))
    return _judged(target.repeated, (chosen, chosen))


def judged_by_the_other(target: Target) -> Judged:
    """What somebody would choose who knew the scores of one seed, judged by the other's: what noise leaves of a
    choice. NaN as above.
    """
    if len(target.twice) < FEWEST:
        return Judged(np.nan, np.nan, np.nan)
    first, second = target.repeated
    return _judged(target.repeated, (int(np.argmax(second)), int(np.argmax(first))))


def _judged(repeated: Array, chosen: Sequence[int]) -> Judged:
    best, average = repeated.max(axis=1), repeated.mean(axis=1)
    lost = best - repeated[[0, 1], chosen]
    regret = lost / np.maximum(best - average, 1e-9)
    return Judged(float(regret.mean()), float(lost.mean()), float((lost <= WITHIN + ROUNDING).mean()))


def noise_and_spread(targets: Sequence[Target]) -> tuple[float, float]:
    """Standard deviations of repeats and of configurations, over targets that were tuned with two seeds.

    NaN where none was.
    """
    twice = [target.repeated for target in targets if len(target.twice) >= FEWEST]
    if not twice:
        return float("nan"), float("nan")
    noise = float(np.mean([within_runs(repeated) for repeated in twice])) ** 0.5
    return noise, max(0.0, float(np.mean([between_configurations(repeated) for repeated in twice]))) ** 0.5


def within_runs(repeated: Array) -> float:
    """Variance of a score around its configuration's mean, from two seeds `(2, R)`, their common difference removed."""
    difference = repeated[0] - repeated[1]
    return float(np.var(difference, ddof=1) / 2)


def between_configurations(repeated: Array) -> float:
    """Variance of the configurations' true scores: the covariance of two runs, whose noise is independent."""
    return float(np.cov(*repeated)[0, 1])
