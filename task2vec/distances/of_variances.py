"""Cosine and correlation distances of the variances that embeddings stand for."""

from __future__ import annotations

import numpy as np

from task2vec.distances.registry import Matrix, Options, register_distance
from task2vec.distances.variances import variances


@register_distance("normalized_cosine")
def normalized_cosine(a: Matrix, b: Matrix, options: Options) -> Matrix:
    """1 - cos(t / a, t / b): variances as shares of the prior's, t being the prior's precision.

    Only `variational` has a prior, whose precision is what it finds for the trivial task; for the others t is 1.
    """
    u = variances(a) * (1 if options.trivial_a is None else options.trivial_a)
    v = variances(b) * (1 if options.trivial_b is None else options.trivial_b)
    return angular(u, v)


@register_distance("correlation")
def correlation(a: Matrix, b: Matrix, options: Options) -> Matrix:
    """1 - the correlation of 1 / a and 1 / b."""
    u, v = variances(a), variances(b)
    return angular(u - u.mean(axis=1, keepdims=True), v - v.mean(axis=1, keepdims=True))


def angular(u: Matrix, v: Matrix) -> Matrix:
    """1 - cos(u_i, v_j), `(n, m)`."""
    return np.asarray((1 - unit(u) @ unit(v).T).clip(0, 2))


def unit(u: Matrix) -> Matrix:
    """Rows of length 1; rows of zeros stay."""
    norms = np.linalg.norm(u, axis=1, keepdims=True)
    return np.asarray(np.divide(u, norms, out=np.zeros_like(u), where=norms > 0))
