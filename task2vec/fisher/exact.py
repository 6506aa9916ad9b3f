"""Exact Fisher: the expectation over all labels."""

from __future__ import annotations

from task2vec.fisher.diagonal import DiagonalFisher
from task2vec.fisher.registry import Estimate, Settings, register_estimator


@register_estimator("exact", is_mean=True)
def exact(fisher: DiagonalFisher, settings: Settings) -> Estimate:
    """The expectation over the labels without drawing any: C - 1 backward passes for C classes, C for multi-label."""
    return Estimate(fisher.mean_squares(lambda probabilities, _: fisher.likelihood.factors(probabilities)))
