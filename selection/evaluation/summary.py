"""Numbers of single targets as means with intervals, sources being what is drawn anew."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]

DRAWS = 2000


@dataclasses.dataclass(frozen=True)
class Mean:
    """A mean over targets with its 95% bootstrap interval over sources."""

    value: float
    low: float
    high: float

    def text(self, scale: float = 1.0, digits: int = 2) -> str:
        """The mean and its interval; a dash if nothing was measured."""
        if np.isnan(self.value):
            return "-"
        return f"{scale * self.value:.{digits}f} ({scale * self.low:.{digits}f} to {scale * self.high:.{digits}f})"


def mean_over_sources(values: Array, sources: Sequence[str], weights: Array | None = None) -> Mean:
    """sum_t v_t / sum_t w_t with its interval; targets whose value is NaN do not count.

    Args:
        values: float64 `(T,)`, v.
        sources: Where each target comes from; targets of one source are drawn together.
        weights: float64 `(T,)`, w; 1 each if not given, which makes it the mean.
    """
    counts = np.ones(len(values)) if weights is None else weights
    measured = np.isfinite(values) & np.isfinite(counts)
    if not measured.any():
        return Mean(np.nan, np.nan, np.nan)
    _, number = np.unique(np.asarray(sources)[measured], return_inverse=True)
    sums, totals = (np.bincount(number, weights=v[measured]) for v in (values, counts))
    drawn = np.random.default_rng(0).integers(len(sums), size=(DRAWS, len(sums)))
    means = sums[drawn].sum(axis=1) / totals[drawn].sum(axis=1)
    low, high = np.quantile(means, [0.025, 0.975])
    return Mean(float(sums.sum() / totals.sum()), float(low), float(high))
