"""LogME: the evidence of a Bayesian linear model of the labels in the features.

Indices: i image, k singular direction of the features.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from selection.recommendation.transferability.registry import SCORES, Outputs

ITERATIONS = 50
TOLERANCE = 1e-4  # of the ratio of precisions, relative


@SCORES.register("logme")
def logme(outputs: Outputs) -> float:
    """Mean over the classes of the largest log p(y | f, alpha, beta) / N (You et al. 2021, equations 2 to 4)."""
    left, singular, _ = np.linalg.svd(outputs.features, full_matrices=False)
    return float(np.mean([_evidence(y, left, singular**2, outputs.features.shape[1]) for y in outputs.one_hot.T]))


def _evidence(
    y: npt.NDArray[np.float64], left: npt.NDArray[np.float64], squares: npt.NDArray[np.float64], width: int
) -> float:
    """The largest log evidence an image, by MacKay's fixed point for the precisions of prior and noise."""
    count = len(y)
    inside = (left.T @ y) ** 2  # y's share along each direction
    outside = max(float(y @ y - inside.sum()), 0.0)
    alpha = beta = 1.0
    for _ in range(ITERATIONS):
        shrink = alpha + beta * squares
        weights = float((beta**2 * squares * inside / shrink**2).sum())  # |m|^2
        residual = float((alpha**2 * inside / shrink**2).sum()) + outside  # |f m - y|^2
        effective = float((beta * squares / shrink).sum())
        before = alpha / beta
        alpha = effective / max(weights, 1e-12)
        beta = (count - effective) / max(residual, 1e-12)
        if abs(alpha / beta - before) <= TOLERANCE * before:
            break
    shrink = alpha + beta * squares
    weights = float((beta**2 * squares * inside / shrink**2).sum())
    residual = float((alpha**2 * inside / shrink**2).sum()) + outside
    log_determinant = float(np.log(shrink).sum()) + (width - len(squares)) * np.log(alpha)
    evidence = width * np.log(alpha) + count * np.log(beta) - log_determinant - beta * residual - alpha * weights
    return float((evidence - count * np.log(2 * np.pi)) / 2 / count)
