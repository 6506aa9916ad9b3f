"""Cheap scores of how well a network tuned on one task will serve another, from one pass over the target's images."""

from selection.recommendation.transferability import h_score, leep, logme, nce  # noqa: F401  each enters itself into the register
from selection.recommendation.transferability.registry import SCORES, Outputs

__all__ = ["SCORES", "Outputs"]
