"""LEEP: the likelihood of the labels under the source's soft predictions, each class of the source voting."""

from __future__ import annotations

import numpy as np

from selection.recommendation.transferability.registry import SCORES, Outputs


@SCORES.register("leep")
def leep(outputs: Outputs) -> float:
    """mean_i log sum_z p(y_i | z) p(z | x_i), p(y | z) counted over the images (Nguyen et al. 2020, equation 2)."""
    joint = outputs.probabilities.T @ outputs.one_hot / len(outputs.labels)  # (K, C)
    conditional = joint / np.maximum(joint.sum(axis=1, keepdims=True), np.finfo(float).tiny)
    expected = (outputs.probabilities @ conditional)[np.arange(len(outputs.labels)), outputs.labels]
    return float(np.log(np.maximum(expected, np.finfo(float).tiny)).mean())
