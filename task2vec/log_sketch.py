"""A short stand-in for the logarithms of a Fisher of many filters, whose products are those of the logarithms.

    s_k = sum over the filters f with b(f) = k of e(f) log F_f

with a bin b(f) of K and a sign e(f) for each filter, drawn once and for all by a hash of its number (a count sketch:
Charikar et al. 2002, https://doi.org/10.1007/3-540-45465-9_59). The product of two sketches is that of the two vectors
plus an error with mean 0 and standard deviation of about |u| |v| / sqrt(K) (Weinberger et al. 2009,
https://arxiv.org/abs/0902.2206). It is linear: the mean of sketches is the sketch of the mean, so that what is usual
for many tasks can be subtracted afterwards.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from task2vec.distances.logarithms import logs

SKETCH_SIZE = 1024  # K


def log_sketch(fisher: npt.ArrayLike, size: int = SKETCH_SIZE) -> npt.NDArray[np.float64]:
    """The sketch `(size,)` of a Fisher `(D,)`; dead filters are at the floor, as in `log_cosine`."""
    values = logs(np.asarray(fisher, np.float64)[None])[0]
    hashed = _hash(np.arange(len(values), dtype=np.uint64))
    signs = np.where(hashed >> np.uint64(63), 1.0, -1.0)
    bins = (hashed % np.uint64(size)).astype(np.int64)
    return np.bincount(bins, weights=signs * values, minlength=size).astype(np.float64)


def _hash(numbers: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """SplitMix64 (Steele et al. 2014, https://doi.org/10.1145/2660193.2660195): the same for ever, on any machine."""
    with np.errstate(over="ignore"):
        mixed = (numbers + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
        mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return mixed ^ (mixed >> np.uint64(31))
