"""What is expected of candidates, before and after some of them were tried on the target.

Indices: c candidate.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from scipy.stats import norm

from selection.recommendation.acquisition import chances_within, cheapest_within, expected_improvement

Array = npt.NDArray[np.float64]

# Of the variance of a validation accuracy, by the trials of the shipped library: what differs between configurations
# that were validated on the same images, and what they share (the choice of the best epoch, which flatters, included).
OWN_ERROR, SHARED_ERROR = 0.3, 1.0

COVERAGE = 0.8  # of the intervals that users see
QUICKEST = 1e-6  # seconds that a training takes at least: some stored ones took none

Seen = tuple[int, float, float]
"""A candidate's number, its validation accuracy, and the variance of that as an estimate."""


@dataclasses.dataclass(frozen=True)
class Prediction:
    """What is expected of candidates.

    Attributes:
        mean: float64 `(C,)`, expected test accuracy; of recommenders without a model, any numbers in the right order.
        covariance: float64 `(C, C)`, how uncertain the accuracies are together; None without a model.
        noise: Variance of a trial around its accuracy: another seed would score differently.
    """

    mean: Array
    covariance: Array | None = None
    noise: float = 0.0

    @property
    def std(self) -> Array:
        """Standard deviation `(C,)` of what a trial would score; NaN without a model."""
        if self.covariance is None:
            return np.full(len(self.mean), np.nan)
        return np.asarray(np.sqrt(np.maximum(np.diag(self.covariance), 0) + self.noise))

    def of(self, numbers: Sequence[int]) -> Prediction:
        """Of some candidates only, in this order."""
        rows = list(numbers)
        covariance = None if self.covariance is None else self.covariance[np.ix_(rows, rows)]
        return Prediction(self.mean[rows], covariance, self.noise)

    def given(self, seen: Sequence[Seen]) -> Prediction:
        """The same after some candidates were tried.

        All are scored on the same validation images, so most of an error is common to them and says nothing about
        which is better.
        """
        if not seen or self.covariance is None:
            return self
        tried = [number for number, _, _ in seen]
        scores = np.array([score for _, score, _ in seen])
        errors = np.sqrt([variance for _, _, variance in seen])
        noise = SHARED_ERROR * np.outer(errors, errors) + np.diag(OWN_ERROR * errors**2 + self.noise)
        across = self.covariance[:, tried]
        weights = np.linalg.solve(self.covariance[np.ix_(tried, tried)] + noise, across.T).T
        mean = self.mean + weights @ (scores - self.mean[tried])
        return Prediction(mean, self.covariance - weights @ across.T, self.noise)

    def choice(self, seen: Sequence[Seen] = ()) -> int:
        """The candidate to tune: the largest expectation; without a model, the best one seen."""
        if seen and self.covariance is None:
            return max(seen, key=lambda trial: trial[1])[0]
        return int(np.argmax(self.given(seen).mean))

    def next_try(self, seen: Sequence[Seen] = (), seconds: Array | None = None) -> int:
        """The candidate to try next: the largest expected improvement over the best so far or, with `seconds` `(C,)`,
        the largest improvement a second; without a model, or with nothing seen, the next in order.

        Raises:
            ValueError: all were tried.
        """
        tried = {number for number, _, _ in seen}
        left = [number for number in range(len(self.mean)) if number not in tried]
        if not left:
            raise ValueError("every candidate was tried")
        after = self.given(seen)
        if after.covariance is None or not seen:
            return max(left, key=lambda number: after.mean[number])
        best = max(after.mean[number] for number in tried)
        worth = expected_improvement(after.mean, np.diag(after.covariance), best)
        if seconds is not None:
            worth = worth / np.maximum(seconds, QUICKEST)
        return max(left, key=lambda number: worth[number])

    def chances_within(self, within: float) -> Array:
        """Each candidate's chance to be within so much accuracy of the best, `(C,)`.

        Raises:
            ValueError: there is no model to expect accuracies.
        """
        return chances_within(self.mean, self._modelled(), within)

    def cheapest_within(self, cost: Array, within: float) -> int:
        """The cheapest candidate that is as likely as not within so much accuracy of the best.

        Args:
            cost: float64 `(C,)`.
            within: A share of accuracy such as 0.01.

        Raises:
            ValueError: there is no model to expect accuracies.
        """
        return cheapest_within(self.mean, self._modelled(), cost, within)

    def _modelled(self) -> Array:
        if self.covariance is None:
            raise ValueError("without a model there is an order of candidates, but no accuracy to be within of")
        return self.covariance


def interval_around(expected: float, std: float) -> tuple[float, float]:
    """Where a trial is expected to score with a chance of `COVERAGE`; NaN without either.

    It is what lies in [0, 1] of the central interval of a normal distribution around the expected accuracy.
    """
    accuracy, far = min(1.0, max(0.0, expected)), float(norm.ppf(0.5 + COVERAGE / 2)) * std
    if not np.isfinite(expected + far):
        return np.nan, np.nan
    return max(0.0, accuracy - far), min(1.0, accuracy + far)


def believed(expected: Prediction, running: Sequence[int]) -> list[Seen]:
    """Tries that still run, as if they had scored what is expected of them (the Kriging believer of Ginsbourger, Le
    Riche and Carraro 2010): expectations stay as they are, and what these tries will tell is no longer uncertain.

    Args:
        expected: What is expected after all that is known.
        running: Candidates' numbers.
    """
    return [(number, float(expected.mean[number]), 0.0) for number in running]
