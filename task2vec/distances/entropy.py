"""How far from undecided it is, filter by filter, which of two tasks a filter matters to."""

from __future__ import annotations

import numpy as np
from scipy.special import xlogy

from task2vec.distances.cosine import STABILISER
from task2vec.distances.pairs import over_pairs
from task2vec.distances.registry import Matrix, Options, register_distance


@register_distance("entropy")
def entropy(a: Matrix, b: Matrix, options: Options) -> Matrix:
    """log 2 - mean_d H(p_d) with p = a / (a + b) and H the entropy of a coin, in nats.

    The stabiliser in the denominator, the public reference implementation's, makes it unsymmetric by about 1e-8. A set
    against itself gets what that implementation gives: the upper triangle, mirrored.
    """
    found = over_pairs(_certainty, a, b)
    return np.triu(found) + np.triu(found, 1).T if a is b else found


def _certainty(a: Matrix, b: Matrix) -> Matrix:
    p = a / (a + b + STABILISER)
    return np.asarray(np.log(2) + (xlogy(p, p) + xlogy(1 - p, 1 - p)).mean(axis=-1))
