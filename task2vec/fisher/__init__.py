"""The Fisher estimators: which labels the squared gradients are taken at, one file each."""

from task2vec.fisher.diagonal import diagonal_fisher
from task2vec.fisher.empirical import empirical
from task2vec.fisher.exact import exact
from task2vec.fisher.montecarlo import montecarlo
from task2vec.fisher.registry import ESTIMATORS, Estimator, LabelPasses

__all__ = ["ESTIMATORS", "Estimator", "LabelPasses", "diagonal_fisher", "empirical", "exact", "montecarlo"]
