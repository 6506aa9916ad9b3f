"""Relative Fishers and their cosine, which the paper's distances are made of."""

from __future__ import annotations

import numpy as np

from task2vec.distances.registry import Matrix

# Added to every denominator a + b, as the public reference implementation does: it keeps filters that are dead for
# both tasks from dividing zero by zero.
STABILISER = 1e-8


def relative_cosine(a: Matrix, b: Matrix) -> Matrix:
    """1 - cos(a / (a + b), b / (a + b)) over the last axis, elementwise quotients."""
    total = a + b + STABILISER
    left, right = a / total, b / total
    product = np.einsum("...d,...d->...", left, right)
    norms = np.einsum("...d,...d->...", left, left) * np.einsum("...d,...d->...", right, right)
    return np.asarray(1 - np.divide(product, np.sqrt(norms), out=np.zeros_like(product), where=norms > 0))


def distance_to_trivial(a: Matrix, trivial: Matrix | None = None) -> Matrix:
    """d_sym(a_i, t0) for each row, `(n,)`; t0 is `(n, D)`, or the limit of ever smaller constants."""
    if trivial is not None:
        return np.asarray(relative_cosine(a, trivial).clip(0, 1))
    inverse = 1 / (a + STABILISER)
    return np.asarray(1 - inverse.sum(axis=1) / np.sqrt(a.shape[1] * (inverse**2).sum(axis=1)))
