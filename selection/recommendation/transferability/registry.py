"""The contract of the transferability scores and the register that they enter themselves into."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from task2vec_base import Registry


@dataclasses.dataclass(frozen=True)
class Outputs:
    """What a source network says of the target's training images.

    Attributes:
        features: `(N, d)`, the inputs of its classifier.
        probabilities: `(N, K)`, its own classifier's, over the K classes of the task it was tuned on.
        labels: int64 `(N,)`, the target's classes, each in `[0, C)`.
    """

    features: npt.NDArray[np.float64]
    probabilities: npt.NDArray[np.float64]
    labels: npt.NDArray[np.int64]

    @property
    def one_hot(self) -> npt.NDArray[np.float64]:
        """Labels as `(N, C)` of 0 and 1."""
        return np.eye(int(self.labels.max()) + 1)[self.labels]


Score = Callable[[Outputs], float]
"""Larger is better."""

SCORES: Registry[Score] = Registry("transferability score", "task2vec.scores")
