"""The paper's symmetric distance d_sym: the cosine distance of relative Fishers.

Indices: i row of a, j row of b, d entry of the embedding.
"""

from __future__ import annotations

import numpy as np

from task2vec.distances.registry import Matrix, Options, register_distance

# Added to every denominator a + b, as the public reference implementation does: it keeps filters that are dead for
# both tasks from dividing zero by zero.
STABILISER = 1e-8

_BLOCK = 4 * 2**20  # entries of the largest temporary


@register_distance("cosine")
def cosine(a: Matrix, b: Matrix, options: Options) -> Matrix:
    """d_sym(a, b) = 1 - cos(a / (a + b), b / (a + b)), elementwise quotients (Achille et al. 2019, section 3.2)."""
    distances = np.empty((len(a), len(b)))
    rows = max(1, _BLOCK // max(1, b.size))
    for start in range(0, len(a), rows):
        block = a[start : start + rows, None, :]
        total = block + b[None] + STABILISER
        left, right = block / total, b[None] / total
        product = np.einsum("ijd,ijd->ij", left, right)
        norms = np.einsum("ijd,ijd->ij", left, left) * np.einsum("ijd,ijd->ij", right, right)
        distances[start : start + rows] = 1 - np.divide(
            product, np.sqrt(norms), out=np.zeros_like(product), where=norms > 0
        )
    return distances.clip(0, 1)
