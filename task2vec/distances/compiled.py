"""The paper's symmetric distance of all pairs as machine code, on all cores.

Indices: i row of a, j row of b, d entry of the vectors.

Array expressions write a / (a + b) and b / (a + b) of every pair to memory before they sum them up. Here they stay in
registers, and the divisions, one for each entry of each pair, are what is left of the time.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
from numba import njit, prange

ROWS = 8  # of a that one thread takes at a time

# Sums may be reordered, so that they are taken in vector registers; infinities and NaN were refused before.
_compile = njit(parallel=True, cache=True, fastmath={"reassoc", "contract", "nsz", "arcp"})


@_compile
def cosine_pairs(a: npt.NDArray[np.float64], b: npt.NDArray[np.float64], stabiliser: float) -> npt.NDArray[np.float64]:
    """d_sym of each row of a `(n, D)` and each of b `(m, D)`, `(n, m)`."""
    found = np.empty((len(a), len(b)))
    for block in prange((len(a) + ROWS - 1) // ROWS):
        for i in range(ROWS * block, min(ROWS * (block + 1), len(a))):
            for j in range(len(b)):
                found[i, j] = _cosine(a[i], b[j], stabiliser)
    return found


@_compile
def cosine_among(a: npt.NDArray[np.float64], stabiliser: float) -> npt.NDArray[np.float64]:
    """d_sym of each two rows of a `(n, D)`, `(n, n)`, each pair computed once."""
    found = np.empty((len(a), len(a)))
    for block in prange((len(a) + ROWS - 1) // ROWS):
        for i in range(ROWS * block, min(ROWS * (block + 1), len(a))):
            for j in range(i, len(a)):
                found[i, j] = found[j, i] = _cosine(a[i], a[j], stabiliser)
    return found


@njit(cache=True, fastmath={"reassoc", "contract", "nsz", "arcp"}, inline="always")
def _cosine(u: npt.NDArray[np.float64], v: npt.NDArray[np.float64], stabiliser: float) -> float:
    product = left = right = 0.0
    for d in range(len(u)):
        inverse = 1 / (u[d] + v[d] + stabiliser)
        p, q = u[d] * inverse, v[d] * inverse
        product += p * q
        left += p * p
        right += q * q
    norms = left * right
    return 1 - product / math.sqrt(norms) if norms > 0 else 1.0
