"""Monte Carlo Fisher: labels drawn from the model's own predictions."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from task2vec.fisher.diagonal import DiagonalFisher, Scores
from task2vec.fisher.registry import Estimate, Settings, register_estimator


@register_estimator("montecarlo")
def montecarlo(fisher: DiagonalFisher, settings: Settings) -> Estimate:
    """`draws` labels for each image from p(y|x), each counting 1 / draws: an unbiased estimate of the Fisher."""
    return Estimate(fisher.mean_squares(drawn_scores(fisher, settings)))


def drawn_scores(fisher: DiagonalFisher, settings: Settings) -> Scores:
    """The scores of drawn labels.

    The numbers that decide the labels are drawn for all images at once, so that they do not depend on the batches. An
    image's draws are spread evenly over the unit interval from a random start (systematic sampling): each follows
    p(y|x) by itself, and together they come as near to it as `draws` labels can.
    """
    shape = fisher.likelihood.uniform_shape(fisher.num_images, fisher.num_classes)
    start = torch.from_numpy(settings.generator.random(shape))

    def scores(probabilities: Tensor, images: Tensor) -> Iterator[Tensor]:
        for k in range(settings.draws):
            labels = fisher.likelihood.sample(probabilities, (start[images] + k / settings.draws) % 1)
            yield fisher.likelihood.score(probabilities, labels) / settings.draws**0.5

    return scores
