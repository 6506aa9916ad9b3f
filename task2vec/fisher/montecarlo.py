"""Monte Carlo Fisher: labels drawn from the model's own predictions."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from task2vec.fisher.registry import LabelPasses, register_estimator


@register_estimator
def montecarlo(
    probabilities: npt.NDArray[np.float64], labels: npt.NDArray[np.int64], draws: int, generator: np.random.Generator
) -> LabelPasses:
    """`draws` labels for each image from p(y|x), each counting 1 / draws: an unbiased estimate of the Fisher."""
    uniform = generator.random((draws, len(labels)))
    cumulative = probabilities.cumsum(axis=1)
    sampled = (uniform[..., None] * cumulative[:, -1, None] >= cumulative).sum(axis=2)
    return LabelPasses(sampled.astype(np.int64), np.full((draws, len(labels)), 1 / draws))
