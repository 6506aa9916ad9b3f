"""Monte Carlo Fisher: labels drawn from the model's own predictions."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from task2vec.fisher.diagonal import DiagonalFisher, Scores
from task2vec.fisher.registry import Estimate, Settings, register_estimator


@register_estimator("montecarlo", is_mean=True)
def montecarlo(fisher: DiagonalFisher, settings: Settings) -> Estimate:
    """`draws` labels for each image from p(y|x), each counting 1 / draws: an unbiased estimate of the Fisher."""
    return Estimate(fisher.mean_squares(drawn_scores(fisher, settings)))


def drawn_scores(fisher: DiagonalFisher, settings: Settings) -> Scores:
    """The scores of drawn labels.

    The numbers that decide the labels are drawn for all images at once, so that they do not depend on the batches. The
    unit interval is cut into as many parts as there are draws, and each draw of an image takes its number from another
    part, in random order (Latin hypercube sampling): every draw follows p(y|x) by itself, and together they come nearer
    to it than independent ones would.
    """
    draws, generator = settings.draws, settings.generator
    shape = (draws, *fisher.likelihood.uniform_shape(fisher.num_images, fisher.num_classes))
    within = generator.random(shape)
    parts = generator.permuted(np.broadcast_to(np.arange(draws).reshape(-1, *[1] * (len(shape) - 1)), shape), axis=0)
    uniform = torch.from_numpy((parts + within) / draws)

    def scores(probabilities: Tensor, images: Tensor) -> Iterator[Tensor]:
        for k in range(draws):
            labels = fisher.likelihood.sample(probabilities, uniform[k, images])
            yield fisher.likelihood.score(probabilities, labels) / draws**0.5

    return scores
