"""Which candidate to take: the formulas of decisions, apart from the models that expect something of candidates.

Indices: c candidate.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy.stats import norm

Array = npt.NDArray[np.float64]

DRAWS = 4000
CHANCE = 0.5  # of being good enough


def expected_improvement(mean: Array, variance: Array, best: float) -> Array:
    """E max(0, f_c - best) for f_c normal, `(C,)` (Jones et al. 1998, equation 15).

    Args:
        mean: float64 `(C,)`.
        variance: float64 `(C,)`.
        best: What there is already.
    """
    spread = np.sqrt(np.maximum(variance, 1e-12))
    z = (mean - best) / spread
    return np.asarray(spread * (z * norm.cdf(z) + norm.pdf(z)))


def chances_within(mean: Array, covariance: Array, within: float) -> Array:
    """Each candidate's chance to be within so much accuracy of the best, `(C,)`.

    It is that of f_c >= max f - within under N(mean, covariance), by draws with a fixed seed. No accuracy is above 1:
    where several candidates are expected to be always right, none is better than the others.

    Args:
        mean: float64 `(C,)`, expected accuracies.
        covariance: float64 `(C, C)`.
        within: A share of accuracy such as 0.01.
    """
    values, vectors = np.linalg.eigh(covariance)
    spread = vectors * np.sqrt(np.maximum(values, 0))
    drawn = np.minimum(mean + np.random.default_rng(0).standard_normal((DRAWS, len(mean))) @ spread.T, 1.0)
    return np.asarray((drawn >= drawn.max(axis=1, keepdims=True) - within - 1e-12).mean(axis=0))


def cheapest_within(mean: Array, covariance: Array, cost: Array, within: float, chance: float = CHANCE) -> int:
    """The cheapest candidate whose chance to be within so much accuracy of the best is large enough.

    Where none is likely enough, the likeliest one is taken.

    Args:
        mean: float64 `(C,)`, expected accuracies.
        covariance: float64 `(C, C)`.
        cost: float64 `(C,)`.
        within: A share of accuracy such as 0.01.
        chance: How likely is enough.
    """
    chances = chances_within(mean, covariance, within)
    enough = np.flatnonzero(chances >= min(chance, chances.max()))
    return int(min(enough, key=lambda c: (cost[c], -mean[c])))
