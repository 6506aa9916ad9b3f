"""Kullback-Leibler divergences of the Gaussians N(0, 1 / a) that embeddings stand for.

For one weight of variances u and v, KL(u || v) = (u / v - 1 + log v - log u) / 2.
"""

from __future__ import annotations

import numpy as np

from task2vec.distances.pairs import over_pairs
from task2vec.distances.registry import Matrix, Options, register_distance
from task2vec.distances.variances import variances


@register_distance("asymmetric_kl")
def asymmetric_kl(a: Matrix, b: Matrix, options: Options) -> Matrix:
    """sum_d KL(1 / a_d || 1 / b_d)."""
    return over_pairs(lambda u, v: divergence(u, v).sum(axis=-1), variances(a), variances(b))


@register_distance("kl")
def kl(a: Matrix, b: Matrix, options: Options) -> Matrix:
    """sum_d max(KL(1 / a_d || 1 / b_d), KL(1 / b_d || 1 / a_d)), the public implementation's symmetric one."""
    return over_pairs(
        lambda u, v: np.maximum(divergence(u, v), divergence(v, u)).sum(axis=-1), variances(a), variances(b)
    )


def divergence(u: Matrix, v: Matrix) -> Matrix:
    """KL(u || v) of each entry."""
    ratio = u / v
    return np.asarray(0.5 * (ratio - 1 - np.log(ratio)))
