"""What a large store searches first: a few numbers of each embedding that tell which ones may be near.

Indices: i stored embedding, q the target, d filter, k axis of the sketch.

With log embeddings L, their centre c and axes A `(D, K)` of the largest spread around it, a row's sketch is

    x_i = L_i - c,   z_i = A' x_i,   m_i = mean_d x_id,   s_i = |x_i|^2,   t_i = d_sym(F_i, t0)

and a product of two rows is x_i . x_q ~ z_i . z_q, one matrix product for all rows. Each distance follows from it:

- d_sym depends on the differences u_d = L_id - L_qd alone, and not on their mean, since it is blind to a common factor:
  with relative Fishers (1 + tanh(u_d / 2)) / 2 and their mirror images, u_d normal with mean 0 and variance
  v = |x_i - x_q|^2 / D - (m_i - m_q)^2 gives d_sym ~ 2 T / (1 + T), T = E tanh^2(u / 2). The Euclidean distance of log
  embeddings, which keeps the mean, is a poor substitute.
- d_asym subtracts alpha t_i.
- log_cosine is a cosine of the x themselves, the centre being its reference.

The best by these are compared exactly afterwards.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from task2vec.distances.asymmetric import distance_to_trivial
from task2vec.distances.log_cosine import logs
from task2vec.distances.registry import Options

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


def estimated(distance: str, stored: Sketch, target: Sketch, num_filters: int) -> Array:
    """What orders stored embeddings as the distance from each to the target would, `(n,)`.

    Raises:
        KeyError: the distance is none of `ESTIMATES`.
    """
    return ESTIMATES[distance](stored, target, num_filters)


def _spread(stored: Sketch, target: Sketch, num_filters: int) -> Array:
    """v, the variance of the differences of log Fishers over the filters."""
    product = stored.projected @ target.projected[0]
    squared = stored.square + target.square[0] - 2 * product
    return np.asarray(squared / num_filters - (stored.mean - target.mean[0]) ** 2)


def _asymmetric(stored: Sketch, target: Sketch, num_filters: int) -> Array:
    symmetric = np.interp(_spread(stored, target, num_filters), _VARIANCES, _DISTANCES)
    return np.asarray(symmetric - Options().alpha * stored.trivial, np.float32)


def _log_cosine(stored: Sketch, target: Sketch, num_filters: int) -> Array:
    return -(stored.projected @ target.projected[0]) / np.sqrt(stored.square + np.finfo(np.float32).tiny)


ESTIMATES: dict[str, Callable[[Sketch, Sketch, int], Array]] = {
    "cosine": _spread,  # d_sym grows with v
    "asymmetric": _asymmetric,
    "log_cosine": _log_cosine,
}
"""The distances that a sketch can stand for."""


def _expected_distance(variances: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """2 T / (1 + T), T = E tanh^2(u / 2) for normal u, by quadrature."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(64)
    expected = np.tanh(np.sqrt(variances)[:, None] * nodes / 2) ** 2 @ (weights / weights.sum())
    return np.asarray(2 * expected / (1 + expected))


_VARIANCES = np.linspace(0, 8, 257) ** 2  # finest where distances are small
_DISTANCES = _expected_distance(_VARIANCES)
