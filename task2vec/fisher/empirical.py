"""Empirical Fisher: the labels of the dataset."""

from __future__ import annotations

from task2vec.fisher.diagonal import DiagonalFisher
from task2vec.fisher.registry import Estimate, Settings, register_estimator


@register_estimator("empirical", is_mean=True)
def empirical(fisher: DiagonalFisher, settings: Settings) -> Estimate:
    """The dataset's label for every image. Not an estimate of the Fisher: it vanishes where the model fits the labels
    (Kunstner et al. 2019, "Limitations of the empirical Fisher approximation", https://arxiv.org/abs/1905.12558).
    """
    return Estimate(
        fisher.mean_squares(lambda p, images: iter([fisher.likelihood.score(p, fisher.labels[images])])),
    )
