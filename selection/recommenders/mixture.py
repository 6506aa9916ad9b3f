"""A kernel over pairs of a task and a configuration, as a sum of known terms whose amounts are learned.

Indices: i pair of task t and configuration c, k term.

    K_ij = sum_k a_k T_k[t_i, t_j] C_k[c_i, c_j]
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from sklearn.gaussian_process.kernels import Hyperparameter, Kernel

Array = npt.NDArray[np.float64]


class Mixture(Kernel):
    """The kernel above, for scikit-learn's Gaussian processes; its inputs are rows `(t, c)` of two numbers.

    Args:
        amounts: a, float64 `(K,)`.
        tasks: T, float64 `(K, T, T)`.
        configs: C, float64 `(K, C, C)`.
        bounds: The least and the largest amount.
    """

    def __init__(self, amounts: Array, tasks: Array, configs: Array, bounds: tuple[float, float]) -> None:
        self.amounts, self.tasks, self.configs, self.amounts_bounds = amounts, tasks, configs, bounds

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """What it was made of, by name."""
        return {
            "amounts": self.amounts,
            "tasks": self.tasks,
            "configs": self.configs,
            "bounds": self.amounts_bounds,
        }

    @property
    def hyperparameter_amounts(self) -> Hyperparameter:
        """The amounts, as scikit-learn describes what can be learned."""
        return Hyperparameter("amounts", "numeric", self.amounts_bounds, len(self.amounts))

    @property
    def theta(self) -> Array:
        """Logarithms of the amounts."""
        return np.log(self.amounts)

    @theta.setter
    def theta(self, theta: Array) -> None:
        self.amounts = np.exp(theta)

    @property
    def bounds(self) -> Array:
        """Logarithms of their bounds, `(K, 2)`."""
        return np.log(np.tile(self.amounts_bounds, (len(self.amounts), 1)))

    def __call__(self, X: Array, Y: Array | None = None, eval_gradient: bool = False) -> Any:  # noqa: N803
        """The kernel of the rows of X and Y and, if asked for, its gradient by theta."""
        t, c = X.astype(int).T
        u, d = t if Y is None else Y[:, 0].astype(int), c if Y is None else Y[:, 1].astype(int)
        found = np.zeros((len(t), len(u)))
        gradient = np.empty((len(t), len(u), len(self.amounts)) if eval_gradient else (0, 0, 0))
        for k, amount in enumerate(self.amounts):
            term = amount * self.tasks[k][np.ix_(t, u)] * self.configs[k][np.ix_(c, d)]
            found += term
            if eval_gradient:
                gradient[:, :, k] = term
        return (found, gradient) if eval_gradient else found

    def diag(self, X: Array) -> Array:  # noqa: N803
        """The kernel of each row with itself."""
        t, c = X.astype(int).T
        return np.asarray(sum(a * self.tasks[k][t, t] * self.configs[k][c, c] for k, a in enumerate(self.amounts)))

    def is_stationary(self) -> bool:
        """Not only differences of inputs count."""
        return False

    def __repr__(self) -> str:
        return f"Mixture(amounts={self.amounts})"
