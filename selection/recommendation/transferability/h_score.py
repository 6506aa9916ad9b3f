"""H-score: how much of the features' spread lies between the classes."""

from __future__ import annotations

import numpy as np
from sklearn.covariance import ledoit_wolf

from selection.recommendation.transferability.registry import SCORES, Outputs


@SCORES.register("h_score")
def h_score(outputs: Outputs) -> float:
    """tr(cov(f)^-1 cov(E[f | y])) (Bao et al. 2019, definition 2).

    With fewer images than features the covariance has no inverse, so it is shrunk as Ledoit and Wolf (2004) do, and
    the classes' means by as much (Ibrahim et al. 2021).
    """
    centred = outputs.features - outputs.features.mean(axis=0)
    covariance, shrinkage = ledoit_wolf(centred, assume_centered=True)
    one_hot = outputs.one_hot
    counts = np.maximum(one_hot.sum(axis=0), 1)
    means = (one_hot.T @ centred / counts[:, None])[outputs.labels]
    between = (1 - shrinkage) * means.T @ means / len(means)
    try:
        return float(np.trace(np.linalg.solve(covariance, between)))
    except np.linalg.LinAlgError:  # as few as two images leave nothing to shrink by; the means lie where these vary
        return float(np.trace(np.linalg.pinv(covariance, hermitian=True) @ between))
