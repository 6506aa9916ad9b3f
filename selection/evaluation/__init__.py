"""How good recommendations are, measured by leaving out each source in turn."""

from selection.evaluation.evaluate import Evaluation, evaluate_store

__all__ = ["Evaluation", "evaluate_store"]
