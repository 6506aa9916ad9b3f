"""Outcomes as means with intervals, sources being what is drawn anew."""

from __future__ import annotations

import dataclasses
from collections import defaultdict
from collections.abc import Callable, Sequence

import numpy as np
from scipy.stats import norm

from selection.evaluation.protocol import Outcome
from selection.recommendation import COVERAGE

DRAWS = 2000


@dataclasses.dataclass(frozen=True)
class Mean:
    """A mean over targets with its 95% bootstrap interval over sources."""

    value: float
    low: float
    high: float

    def text(self, scale: float = 1.0, digits: int = 2) -> str:
        """The mean and its interval."""
        return f"{scale * self.value:.{digits}f} ({scale * self.low:.{digits}f} to {scale * self.high:.{digits}f})"


def mean_of(outcomes: Sequence[Outcome], value: Callable[[Outcome], float]) -> Mean:
    """Mean of a value over outcomes; those without it do not count."""
    by_source: dict[str, list[float]] = defaultdict(list)
    for outcome in outcomes:
        if np.isfinite(value(outcome)):
            by_source[outcome.source].append(value(outcome))
    if not by_source:
        return Mean(np.nan, np.nan, np.nan)
    sums = np.array([sum(values) for values in by_source.values()])
    counts = np.array([len(values) for values in by_source.values()])
    drawn = np.random.default_rng(0).integers(len(sums), size=(DRAWS, len(sums)))
    means = sums[drawn].sum(axis=1) / counts[drawn].sum(axis=1)
    return Mean(float(sums.sum() / counts.sum()), *(float(q) for q in np.quantile(means, [0.025, 0.975])))


def covered(outcome: Outcome, share: float = COVERAGE) -> float:
    """Whether the score lay in the central interval of that share; NaN without an interval."""
    if not np.isfinite(outcome.deviation):
        return float("nan")
    return float(abs(outcome.deviation) <= norm.ppf(0.5 + share / 2))


def of(outcomes: Sequence[Outcome], row: str, tries: int) -> list[Outcome]:
    """The outcomes of a row after so many tries."""
    return [outcome for outcome in outcomes if outcome.row == row and outcome.tries == tries]
