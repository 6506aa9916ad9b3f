"""The contract of the Fisher estimators and the register that they enter themselves into.

The Fisher of one image is an expectation over labels y of the squared gradient of log p(y|x). Estimators differ only in
the labels they take and the weight they give to each, so that is all an estimator says.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt


class LabelPasses(NamedTuple):
    """Labels to take gradients at: K backward passes over N images.

    Attributes:
        labels: int64 `(K, N)`.
        weights: float64 `(K, N)`: what each squared gradient counts for.
    """

    labels: npt.NDArray[np.int64]
    weights: npt.NDArray[np.float64]


Estimator = Callable[[npt.NDArray[np.float64], npt.NDArray[np.int64], int, np.random.Generator], LabelPasses]
"""From probabilities `(N, C)`, the dataset's labels `(N,)`, the number of draws and a generator to label passes."""

ESTIMATORS: dict[str, Estimator] = {}


def register_estimator(estimator: Any) -> Any:
    """Enter an estimator under its own name."""
    ESTIMATORS[estimator.__name__] = estimator
    return estimator
