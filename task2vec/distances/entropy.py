"""log 2 minus the mean binary entropy of a / (a + b) over the filters: 0 where both tasks use every filter equally."""

from __future__ import annotations

import numpy as np
from scipy.special import xlogy

from task2vec.distances.pairs import over_pairs
from task2vec.distances.registry import Matrix, Options, register_distance
from task2vec.distances.relative import STABILISER


@register_distance("entropy")
def entropy(a: Matrix, b: Matrix, options: Options) -> Matrix:
    """log 2 - mean_d H(p_d) with p = a / (a + b) and H the entropy of a coin, in nats.

    The stabiliser in the denominator, the public reference implementation's, makes it unsymmetric by about 1e-8, and
    would make tiny vectors differ from themselves. As in that implementation, a set against itself gets the upper
    triangle, mirrored, and a vector's distance to itself is 0.
    """
    found = np.where(over_pairs(_equal, a, b), 0.0, over_pairs(_certainty, a, b))
    return np.triu(found) + np.triu(found, 1).T if a is b else found


def _equal(a: Matrix, b: Matrix) -> Matrix:
    return np.asarray((a == b).all(axis=-1), np.float64)


def _certainty(a: Matrix, b: Matrix) -> Matrix:
    p = a / (a + b + STABILISER)
    return np.asarray(np.log(2) + (xlogy(p, p) + xlogy(1 - p, 1 - p)).mean(axis=-1))
