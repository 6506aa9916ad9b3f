"""The contract of the Fisher estimators and the register that they enter themselves into.

An estimator is given the means to measure (`DiagonalFisher`) and says which gradients to take: of what labels, at which
weights, how often.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from task2vec.errors import EmbeddingError
from task2vec.fisher.diagonal import DiagonalFisher
from task2vec_base import Registry


@dataclasses.dataclass(frozen=True)
class VariationalConfig:
    """Settings of the `variational` estimator.

    Attributes:
        noise: How much the noise may raise the loss, in nats, if the Fisher stayed what it is: it sets beta, the weight
            of the KL term, to `2 * noise / number of weights`.
        prior_scale: Standard deviation of the prior, as a multiple of the root mean square of each layer's weights.
        start: Variance to start from, as a multiple of the prior's; None starts from the closed form, in which the
            Fisher is that of the weights without noise.
        images_per_pass: So many images, drawn anew, are measured in each pass.
        max_passes: Stop after so many passes even if not converged.
        tolerance: Converged when the standard error of the log variances is below this, root mean square over filters.

    Raises:
        EmbeddingError: a setting is not above 0.
    """

    noise: float = 0.01
    prior_scale: float = 0.3
    start: float | None = None
    images_per_pass: int = 400
    max_passes: int = 12
    tolerance: float = 0.05

    def __post_init__(self) -> None:
        odd = next((name for name, value in vars(self).items() if value is not None and not value > 0), None)
        if odd is not None:
            raise EmbeddingError(f"{odd}={getattr(self, odd)} of the variational estimator must be more than 0")


@dataclasses.dataclass(frozen=True)
class Convergence:
    """What an iterative estimator reached.

    Attributes:
        passes: How many passes it took.
        error: Standard error of the log variances, root mean square over the filters.
        converged: Whether that is below the tolerance.
        beta: Weight of the KL term.
    """

    passes: int
    error: float
    converged: bool
    beta: float


@dataclasses.dataclass(frozen=True)
class Settings:
    """What a caller may ask of an estimator; each takes what concerns it.

    Attributes:
        draws: Labels drawn for each image.
        generator: Where randomness comes from.
        variational: For the estimator of this name.
    """

    draws: int
    generator: np.random.Generator
    variational: VariationalConfig = dataclasses.field(default_factory=VariationalConfig)


@dataclasses.dataclass(frozen=True)
class Estimate:
    """What an estimator found.

    Attributes:
        fisher: float64 `(D,)`.
        trivial: `(D,)`, what it would find for the trivial task t0, which has nothing to tell apart; None stands for
            ever smaller constants.
        convergence: How an iterative estimator ended.
    """

    fisher: npt.NDArray[np.float64]
    trivial: npt.NDArray[np.float64] | None = None
    convergence: Convergence | None = None


Estimator = Callable[[DiagonalFisher, Settings], Estimate]

ESTIMATORS: Registry[Estimator] = Registry("estimator", "task2vec.estimators")


MEANS: set[str] = set()
"""Estimators that are a single mean over the images: the shares of shards add up to the whole."""


def register_estimator(name: str, *, is_mean: bool = False) -> Callable[[Estimator], Estimator]:
    """Enter an estimator under `name`.

    Args:
        name: What it is called.
        is_mean: Whether its Fisher is what one call of `DiagonalFisher.mean_squares` for all images gives.

    Raises:
        ValueError: the name is taken.
    """

    def enter(estimator: Estimator) -> Estimator:
        ESTIMATORS.enter(name, estimator)
        if is_mean:
            MEANS.add(name)
        return estimator

    return enter
