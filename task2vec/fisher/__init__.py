"""The Fisher estimators: of which labels, and at which weights, gradients are taken and squared; one file each."""

from task2vec.fisher import empirical, exact, hutchinson, montecarlo, variational
from task2vec.fisher.diagonal import DiagonalFisher, Shard
from task2vec.fisher.registry import ESTIMATORS, MEANS, Convergence, Estimate, Settings, VariationalConfig

__all__ = [
    "ESTIMATORS",
    "MEANS",
    "Convergence",
    "DiagonalFisher",
    "Estimate",
    "Settings",
    "Shard",
    "VariationalConfig",
    "empirical",
    "exact",
    "hutchinson",
    "montecarlo",
    "variational",
]
