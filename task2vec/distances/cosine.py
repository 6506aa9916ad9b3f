"""The paper's symmetric distance d_sym: the cosine distance of relative Fishers."""

from __future__ import annotations

import numpy as np

from task2vec.distances.pairs import over_pairs
from task2vec.distances.registry import Matrix, Options, register_distance

# Added to every denominator a + b, as the public reference implementation does: it keeps filters that are dead for
# both tasks from dividing zero by zero.
STABILISER = 1e-8

COMPILE_ABOVE = 10**8  # entries of pairs; below that, array expressions are done before a compiler is loaded


@register_distance("cosine")
def cosine(a: Matrix, b: Matrix, options: Options) -> Matrix:
    """d_sym(a, b) = 1 - cos(a / (a + b), b / (a + b)), elementwise quotients (Achille et al. 2019, section 3.2)."""
    if a.size * len(b) <= COMPILE_ABOVE:
        return over_pairs(_relative_cosine, a, b).clip(0, 1)
    from task2vec.distances.compiled import cosine_among, cosine_pairs

    found = cosine_among(a, STABILISER) if a is b else cosine_pairs(a, b, STABILISER)
    return np.asarray(found.clip(0, 1, out=found))


def paired_cosine(a: Matrix, b: Matrix) -> Matrix:
    """d_sym of each row of a and the same row of b, `(n,)`."""
    return np.asarray(_relative_cosine(a, b).clip(0, 1))


def _relative_cosine(a: Matrix, b: Matrix) -> Matrix:
    total = a + b + STABILISER
    left, right = a / total, b / total
    product = np.einsum("...d,...d->...", left, right)
    norms = np.einsum("...d,...d->...", left, left) * np.einsum("...d,...d->...", right, right)
    return np.asarray(1 - np.divide(product, np.sqrt(norms), out=np.zeros_like(product), where=norms > 0))
