"""The contract of the distances and the register that they enter themselves into."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from task2vec_base import Registry

Matrix = npt.NDArray[np.float64]


@dataclasses.dataclass(frozen=True)
class Options:
    """What some distances need beside the two sets of vectors.

    Attributes:
        alpha: How much the asymmetric distance rewards a complex source.
        reference: `(D,)`, the mean log embedding that `log_cosine` subtracts.
        trivial_a: `(n, D)`, what the rows' estimator finds for the trivial task; None for ever smaller constants.
        trivial_b: `(m, D)`, the same for the columns.
    """

    alpha: float = 0.15
    reference: Matrix | None = None
    trivial_a: Matrix | None = None
    trivial_b: Matrix | None = None


Distance = Callable[[Matrix, Matrix, Options], Matrix]
"""From rows a `(n, D)` and b `(m, D)` to distances `(n, m)`, entry ij from a_i to b_j."""

DISTANCES: Registry[Distance] = Registry("distance", "task2vec.distances")


def register_distance(name: str) -> Callable[[Distance], Distance]:
    """Enter a distance under `name`.

    Raises:
        ValueError: the name is taken.
    """
    return DISTANCES.register(name)
