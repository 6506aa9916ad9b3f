"""All pairs of two sets of vectors, a block at a time.

Indices: i row of a, j row of b, d entry of the vectors.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from task2vec.distances.registry import Matrix

BLOCK = 2**17  # entries of the largest temporary: it stays in a core's cache


def over_pairs(formula: Callable[[Matrix, Matrix], Matrix], a: Matrix, b: Matrix) -> Matrix:
    """`formula` of a's rows `(i, 1, d)` and b's `(1, j, d)`, which gives `(i, j)`, for all of them: `(n, m)`."""
    found = np.empty((len(a), len(b)))
    columns = max(1, BLOCK // a.shape[1])
    rows = max(1, columns // max(1, len(b)))
    for i in range(0, len(a), rows):
        for j in range(0, len(b), columns):
            found[i : i + rows, j : j + columns] = formula(a[i : i + rows, None], b[None, j : j + columns])
    return found
