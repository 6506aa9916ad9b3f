"""Variational Fisher: how much noise each filter's weights bear.

Indices: f filter, w weight, W number of weights. v_f is the variance of the noise on every weight of filter f.

The paper's objective (Achille et al. 2019, section 2.1) over one variance for each filter, w0 being the weights of the
probe,

    L(v) = E_{w ~ N(w0, v)} [cross-entropy] + beta KL(N(0, v) || N(0, lambda^2)),

is stationary where 1 / v_f = F_f / beta + 1 / lambda^2, F_f being the mean Fisher of filter f under that noise, if the
cross-entropy is against the predictions of the model without noise: like the Fisher's, its expectation over labels is
under the model. (Against the dataset's labels, a classifier that does not fit them all adds curvature of either sign.)
This is its own algorithm (variational online Newton): draw weights at the current variances, measure their Fisher, set
the variances, repeat. The first passes forget where they started; from then on the Fisher is averaged over passes,
whose spread says how far the average can be trusted.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from task2vec.fisher.diagonal import DiagonalFisher
from task2vec.fisher.hutchinson import signed_scores
from task2vec.fisher.registry import Convergence, Estimate, Settings, register_estimator

BURN_IN = 2  # passes that only serve to forget the start
IMAGES_PER_DRAW = 16  # images that share one draw of the weights
MIN_PASSES = BURN_IN + 3  # the spread of fewer averaged passes says little

Vector = npt.NDArray[np.float64]


@register_estimator("variational")
def variational(fisher: DiagonalFisher, settings: Settings) -> Estimate:
    """beta times the precision 1 / v at the stationary point, `E_q[F] + beta / lambda^2`.

    Its second part is what every task has: the trivial task t0, which has no Fisher, keeps the prior's precision.
    """
    config = settings.variational
    prior = prior_variances(fisher.layers, config.prior_scale)
    beta = 2 * config.noise / sum(layer.weight.numel() for layer in fisher.layers.values())
    everything = np.arange(fisher.num_images)
    measured: list[Vector] = []
    if config.start is None:
        variances = stationary(fisher.mean_squares(signed_scores(fisher, settings)), beta, prior)
    else:
        variances = config.start * prior
    while True:
        images = np.sort(settings.generator.permutation(everything)[: config.images_per_pass])
        noise = WeightNoise(fisher.layers, variances, int(settings.generator.integers(2**62)))
        scores = signed_scores(fisher, settings)
        measured.append(fisher.mean_squares(scores, images, noise.drawn, largest_batch=IMAGES_PER_DRAW))
        averaged = measured[BURN_IN:] or measured[-1:]
        variances = stationary(np.mean(averaged, axis=0), beta, prior)
        error = standard_error(np.stack(averaged), variances, beta)
        if len(measured) >= MIN_PASSES and (error <= config.tolerance or len(measured) >= config.max_passes):
            break
    report = Convergence(len(measured), error, error <= config.tolerance, beta)
    return Estimate(beta / variances, trivial=beta / prior, convergence=report)


def stationary(fisher: Vector, beta: float, prior: Vector) -> Vector:
    """The variances at which the objective is stationary, were the Fisher to stay what it is, `(D,)`."""
    return np.asarray(1 / (fisher / beta + 1 / prior))


def standard_error(measured: npt.NDArray[np.float64], variances: Vector, beta: float) -> float:
    """Standard error of log variances that rest on the mean of passes `(T, D)`, root mean square over filters."""
    if len(measured) < 2:
        return math.inf
    errors = measured.std(axis=0, ddof=1) / math.sqrt(len(measured)) / beta * variances
    return float(np.sqrt(np.mean(errors**2)))


def prior_variances(layers: dict[str, nn.Linear | nn.Conv2d], scale: float) -> Vector:
    """lambda^2 for each filter, `(D,)`: that of a layer is a multiple of its mean squared weight."""
    weights = [module.weight.detach().cpu().double() for module in layers.values()]
    return np.concatenate([np.full(len(weight), scale**2 * float(weight.square().mean())) for weight in weights])


class WeightNoise:
    """Gaussian noise on the weights of layers, drawn anew each time.

    Args:
        layers: The layers.
        variances: `(D,)`, of every weight of each filter.
        seed: Fixes what is drawn.
    """

    def __init__(self, layers: dict[str, nn.Linear | nn.Conv2d], variances: Vector, seed: int) -> None:
        self._weights = [layer.weight for layer in layers.values()]
        split = np.split(np.sqrt(variances), np.cumsum([len(w) for w in self._weights])[:-1])
        self._deviations: list[Tensor] = [
            torch.from_numpy(d).to(w).view(-1, *[1] * (w.ndim - 1)) for d, w in zip(split, self._weights, strict=True)
        ]
        self._generator = torch.Generator(self._weights[0].device).manual_seed(seed)

    @contextmanager
    def drawn(self) -> Iterator[None]:
        """Inside the context, the weights are noisy; afterwards they are the same tensors as before."""
        clean = [weight.data for weight in self._weights]
        try:
            for weight, deviation in zip(self._weights, self._deviations, strict=True):
                noise = torch.empty_like(weight).normal_(generator=self._generator)
                weight.data = torch.addcmul(weight.data, noise, deviation)
            yield
        finally:
            for weight, values in zip(self._weights, clean, strict=True):
                weight.data = values
