"""The paper's symmetric distance of all pairs as machine code, on as many cores as torch uses.

Indices: i row of a, j row of b, d entry of the vectors.

Array expressions write a / (a + b) and b / (a + b) of every pair to memory before they sum them up. Here they stay in
registers, and the divisions are what is left of the time: one serves two pairs, as 1 / x = y / (x y).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager

import numba
import numpy as np
import numpy.typing as npt
import torch
from numba import njit, prange

ROWS = 8  # of a that one thread takes at a time

# Sums may be reordered, so that they are taken in vector registers; infinities and NaN were refused before.
FASTMATH = {"reassoc", "contract", "nsz", "arcp"}


@contextmanager
def threads_of_torch() -> Iterator[None]:
    """Compiled code runs on as many threads as torch, and leaves torch and numba as many as they had.

    Both count them in the same OpenMP runtime, where numba would set all cores for good, whatever the user chose.
    """
    threads = torch.get_num_threads()
    of_numba = numba.get_num_threads()
    numba.set_num_threads(min(threads, numba.config.NUMBA_NUM_THREADS))
    try:
        yield
    finally:
        numba.set_num_threads(of_numba)
        torch.set_num_threads(threads)


_compile = njit(parallel=True, cache=True, fastmath=FASTMATH)


@_compile
def cosine_pairs(a: npt.NDArray[np.float64], b: npt.NDArray[np.float64], stabiliser: float) -> npt.NDArray[np.float64]:
    """d_sym of each row of a `(n, D)` and each of b `(m, D)`, `(n, m)`."""
    found = np.empty((len(a), len(b)))
    for block in prange((len(a) + ROWS - 1) // ROWS):
        for i in range(ROWS * block, min(ROWS * (block + 1), len(a))):
            for j in range(0, len(b), 2):
                k = min(j + 1, len(b) - 1)
                found[i, j], found[i, k] = _two_cosines(a[i], b[j], b[k], stabiliser)
    return found


@_compile
def cosine_among(a: npt.NDArray[np.float64], stabiliser: float) -> npt.NDArray[np.float64]:
    """d_sym of each two rows of a `(n, D)`, `(n, n)`, each pair computed once."""
    found = np.empty((len(a), len(a)))
    for block in prange((len(a) + ROWS - 1) // ROWS):
        for i in range(ROWS * block, min(ROWS * (block + 1), len(a))):
            for j in range(i, len(a), 2):
                k = min(j + 1, len(a) - 1)
                first, second = _two_cosines(a[i], a[j], a[k], stabiliser)
                found[i, j] = found[j, i] = first
                found[i, k] = found[k, i] = second
    return found


@njit(cache=True, fastmath=FASTMATH, inline="always")
def _two_cosines(
    u: npt.NDArray[np.float64], v: npt.NDArray[np.float64], w: npt.NDArray[np.float64], stabiliser: float
) -> tuple[float, float]:
    """d_sym of u with v and of u with w."""
    product_v = left_v = right_v = product_w = left_w = right_w = 0.0
    for d in range(len(u)):
        total_v, total_w = u[d] + v[d] + stabiliser, u[d] + w[d] + stabiliser
        inverse = 1 / (total_v * total_w)
        inverse_v, inverse_w = inverse * total_w, inverse * total_v
        p, q = u[d] * inverse_v, v[d] * inverse_v
        product_v += p * q
        left_v += p * p
        right_v += q * q
        p, q = u[d] * inverse_w, w[d] * inverse_w
        product_w += p * q
        left_w += p * p
        right_w += q * q
    return _cosine_distance(product_v, left_v * right_v), _cosine_distance(product_w, left_w * right_w)


@njit(cache=True, inline="always")
def _cosine_distance(product: float, norms: float) -> float:
    return 1 - product / math.sqrt(norms) if norms > 0 else 1.0
