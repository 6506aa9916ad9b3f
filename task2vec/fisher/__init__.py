"""The Fisher estimators: of which labels, and at which weights, gradients are taken and squared; one file each."""

from task2vec.fisher import empirical, exact, hutchinson, montecarlo, variational
from task2vec.fisher.diagonal import DiagonalFisher
from task2vec.fisher.registry import ESTIMATORS, Convergence, Estimate, Settings, VariationalConfig

__all__ = [
    "ESTIMATORS",
    "Convergence",
    "DiagonalFisher",
    "Estimate",
    "Settings",
    "VariationalConfig",
    "empirical",
    "exact",
    "hutchinson",
    "montecarlo",
    "variational",
]
