"""The paper's asymmetric distance d_asym: how well a source serves a target, complex sources being preferred."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from task2vec.distances.cosine import cosine
from task2vec.distances.registry import Matrix, Options, register_distance
from task2vec.distances.relative import distance_to_trivial
from task2vec.distances.sketch import Array, Sketch, register_estimate, spread


@register_distance("asymmetric")
def asymmetric(a: Matrix, b: Matrix, options: Options) -> Matrix:
    """d_asym(a -> b) = d_sym(a, b) - alpha * d_sym(a, t0) (Achille et al. 2019, section 3.2).

    a are the sources, b the targets. What the trivial task t0, which has nothing to tell apart, is embedded as depends
    on the estimator:

    - `montecarlo`, `hutchinson`, `exact`, `empirical`: its Fisher is zero. Being equally zero everywhere, it stands for
      the limit of a constant Fisher e that goes to zero. There a / (a + e) goes to 1 and e / (a + e) is proportional to
      1 / a, so d_sym(a, t0) = 1 - cos(1, 1 / a), which is 0 for a flat embedding and grows with the spread of a over
      the filters. It does not depend on the scale of a.
    - `variational`: what is left without any Fisher is the precision of the prior, beta / lambda^2.
    """
    return cosine(a, b, options) - options.alpha * distance_to_trivial(a, options.trivial_a)[:, None]


@register_estimate("asymmetric")
def estimated(stored: Sketch, target: Sketch, num_filters: int) -> Array:
    """d_asym from sketches, with d_sym read off the spread of the differences of log Fishers.

    d_sym depends on the differences u_d = L_id - L_qd alone, and not on their mean, since it is blind to a common
    factor. The relative Fishers are (1 + tanh(u_d / 2)) / 2 and their mirror images; u_d normal with mean 0 and that
    spread as its variance gives d_sym ~ 2 T / (1 + T), T = E tanh^2(u / 2). The Euclidean distance of log embeddings,
    which keeps the mean, is a poor substitute.
    """
    symmetric = np.interp(spread(stored, target, num_filters), _VARIANCES, _DISTANCES)
    return np.asarray(symmetric - Options().alpha * stored.trivial, np.float32)


def _expected_distance(variances: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """2 T / (1 + T), T = E tanh^2(u / 2) for normal u, by quadrature."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(64)
    expected = np.tanh(np.sqrt(variances)[:, None] * nodes / 2) ** 2 @ (weights / weights.sum())
    return np.asarray(2 * expected / (1 + expected))


_VARIANCES = np.linspace(0, 8, 257) ** 2  # finest where distances are small
_DISTANCES = _expected_distance(_VARIANCES)
