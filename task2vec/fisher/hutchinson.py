"""Hutchinson's estimate of the Fisher: random signs instead of random labels."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from task2vec.fisher.diagonal import DiagonalFisher, Scores
from task2vec.fisher.registry import Estimate, Settings, register_estimator


@register_estimator("hutchinson", is_mean=True)
def hutchinson(fisher: DiagonalFisher, settings: Settings) -> Estimate:
    """`draws` backward passes, each of a random combination of all labels: an unbiased estimate of the Fisher.

    The Fisher by the logits is `sum_k v_k v_k'` over its factors. With signs r_k of mean zero, `sum_k r_k v_k` pulls
    back to a gradient whose square has the Fisher for its mean (Hutchinson 1989). Where the model is sure of an image,
    a label drawn by chance is nearly always the same, and once in a while another one with a huge gradient; signs weigh
    all labels every time, and so spread much less.
    """
    return Estimate(fisher.mean_squares(signed_scores(fisher, settings)))


def signed_scores(fisher: DiagonalFisher, settings: Settings) -> Scores:
    """The scores of random signs; they are drawn for all images at once, and so do not depend on the batches."""
    shape = fisher.num_images, settings.draws, fisher.num_classes
    ones = torch.from_numpy(settings.generator.integers(2, size=shape, dtype="int8"))  # a byte for each sign

    def scores(probabilities: Tensor, images: Tensor) -> Iterator[Tensor]:
        for k in range(settings.draws):
            signs = 2 * ones[images, k].to(probabilities) - 1
            yield fisher.likelihood.combined(probabilities, signs) / settings.draws**0.5

    return scores
