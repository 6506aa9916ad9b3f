"""The paper's symmetric distance d_sym: the cosine distance of relative Fishers."""

from __future__ import annotations

import numpy as np

from task2vec.distances.pairs import over_pairs
from task2vec.distances.registry import Matrix, Options, register_distance
from task2vec.distances.relative import STABILISER, relative_cosine
from task2vec.distances.sketch import register_estimate, spread

COMPILE_ABOVE = 10**8  # entries of pairs; below that, array expressions are done before a compiler is loaded


@register_distance("cosine")
def cosine(a: Matrix, b: Matrix, options: Options) -> Matrix:
    """d_sym(a, b) = 1 - cos(a / (a + b), b / (a + b)), elementwise quotients (Achille et al. 2019, section 3.2)."""
    if a.size * len(b) <= COMPILE_ABOVE:
        return over_pairs(relative_cosine, a, b).clip(0, 1)
    from task2vec.distances.compiled import cosine_among, cosine_pairs, threads_of_torch

    with threads_of_torch():
        found = cosine_among(a, STABILISER) if a is b else cosine_pairs(a, b, STABILISER)
    return np.asarray(found.clip(0, 1, out=found))


register_estimate("cosine")(spread)  # d_sym grows with it, see `asymmetric`
