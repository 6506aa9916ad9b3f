"""The paper's asymmetric distance d_asym: how well a source serves a target, complex sources being preferred."""

from __future__ import annotations

import numpy as np

from task2vec.distances.cosine import STABILISER, cosine, paired_cosine
from task2vec.distances.registry import Matrix, Options, register_distance


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


def distance_to_trivial(a: Matrix, trivial: Matrix | None = None) -> Matrix:
    """d_sym(a_i, t0) for each row, `(n,)`; t0 is `(n, D)`, or the limit of ever smaller constants."""
    if trivial is not None:
        return paired_cosine(a, trivial)
    inverse = 1 / (a + STABILISER)
    return np.asarray(1 - inverse.sum(axis=1) / np.sqrt(a.shape[1] * (inverse**2).sum(axis=1)))
