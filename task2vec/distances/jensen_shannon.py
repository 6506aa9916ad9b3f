"""Jensen-Shannon divergence of the Gaussians that embeddings stand for."""

from __future__ import annotations

import numpy as np

from task2vec.distances.kl import divergence
from task2vec.distances.pairs import over_pairs
from task2vec.distances.registry import Matrix, Options, register_distance
from task2vec.distances.variances import variances


@register_distance("jensen_shannon")
def jensen_shannon(a: Matrix, b: Matrix, options: Options) -> Matrix:
    """mean_d (KL(u || w) + KL(v || w)) / 2 with u = 1 / a_d, v = 1 / b_d and w = (u + v) / 2."""
    return over_pairs(_to_the_middle, variances(a), variances(b))


def _to_the_middle(u: Matrix, v: Matrix) -> Matrix:
    middle = 0.5 * (u + v)
    return np.asarray(0.5 * (divergence(u, middle) + divergence(v, middle)).mean(axis=-1))
