"""What a large store searches first: a few numbers of each embedding that tell which ones may be near.

Indices: i stored embedding, q the target, d filter, k axis of the sketch.

With log embeddings L, their centre c and axes A `(D, K)` of the largest spread around it, a row's sketch is

    x_i = L_i - c,   z_i = A' x_i,   m_i = mean_d x_id,   s_i = |x_i|^2,   t_i = d_sym(F_i, t0)

and a product of two rows is x_i . x_q ~ z_i . z_q, one matrix product for all rows. A distance that can be told from
these numbers enters its estimate beside its definition; the best by the estimate are compared exactly afterwards.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from task2vec.distances.logarithms import logs
from task2vec.distances.relative import distance_to_trivial
from task2vec_base import Registry

Array = npt.NDArray[np.float32]

AXES = 128
SAMPLE = 8192  # embeddings that the axes are taken from


@dataclasses.dataclass(frozen=True)
class Sketch:
    """The sketches of some embeddings.

    Attributes:
        ids: int64 `(n,)`, what the store calls them.
        projected: float32 `(n, K)`, z.
        mean: float32 `(n,)`, m.
        square: float32 `(n,)`, s.
        trivial: float32 `(n,)`, t.
    """

    ids: npt.NDArray[np.int64]
    projected: Array
    mean: Array
    square: Array
    trivial: Array

    def __len__(self) -> int:
        return len(self.ids)

    def rows(self, chosen: npt.NDArray[np.bool_] | slice) -> Sketch:
        """Some of the rows."""
        return Sketch(**{field: values[chosen] for field, values in vars(self).items()})

    @classmethod
    def concatenate(cls, sketches: list[Sketch]) -> Sketch:
        """One after the other."""
        return cls(**{name: np.concatenate([getattr(s, name) for s in sketches]) for name in vars(sketches[0])})


@dataclasses.dataclass(frozen=True)
class Projection:
    """Centre and axes of a set of log embeddings.

    Attributes:
        centre: float32 `(D,)`, c.
        axes: float32 `(D, K)`, A, orthonormal.
    """

    centre: Array
    axes: Array

    @classmethod
    def fit(cls, fisher: Array, centre: npt.ArrayLike | None = None) -> Projection:
        """The axes of largest spread of a sample `(n, D)`, around its mean log embedding if no centre is given."""
        log = logs(fisher.astype(np.float64)).astype(np.float32)
        middle = log.mean(axis=0) if centre is None else np.asarray(centre, np.float32)
        x = log - middle
        _, vectors = np.linalg.eigh(x.T @ x)  # eigenvalues ascend
        return cls(middle, np.ascontiguousarray(vectors[:, ::-1][:, :AXES], np.float32))

    def sketch(self, ids: npt.ArrayLike, fisher: Array, trivial: Array | None = None) -> Sketch:
        """The sketches of embeddings `(n, D)`; `trivial` as in `distance_to_trivial`."""
        values = fisher.astype(np.float64)
        x = logs(values).astype(np.float32) - self.centre
        t0 = None if trivial is None else trivial.astype(np.float64)
        t = distance_to_trivial(values, t0)
        square = np.einsum("id,id->i", x, x)
        projected = np.asarray(x @ self.axes, np.float32)
        return Sketch(np.asarray(ids, np.int64), projected, x.mean(axis=1), square, t.astype(np.float32))


Estimate = Callable[[Sketch, Sketch, int], Array]
"""From the sketches of n stored embeddings, that of a target and D to what orders the stored ones as the distance from
each to the target would, `(n,)`."""

ESTIMATES: Registry[Estimate] = Registry("estimate of a distance", "task2vec.distance_estimates")
"""The distances that a sketch can stand for."""


def register_estimate(name: str) -> Callable[[Estimate], Estimate]:
    """Enter the estimate of the distance `name`.

    Raises:
        ValueError: it has one already.
    """
    return ESTIMATES.register(name)


def spread(stored: Sketch, target: Sketch, num_filters: int) -> Array:
    """|x_i - x_q|^2 / D - (m_i - m_q)^2: the variance of the differences of log Fishers over the filters, `(n,)`."""
    product = stored.projected @ target.projected[0]
    squared = stored.square + target.square[0] - 2 * product
    return np.asarray(squared / num_filters - (stored.mean - target.mean[0]) ** 2)
