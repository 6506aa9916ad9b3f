"""The contract of the recommenders, and the register that they enter themselves into."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from adapters import AdapterConfig
from selection.evidence.table import TaskFacts, TrialTable
from selection.recommendation.prediction import Prediction
from task2vec_base import Registry

Recommender = Callable[[TrialTable, TaskFacts, Sequence[AdapterConfig]], Prediction]
"""From what was tuned on stored tasks, a target and candidates to what is expected of the candidates."""

RECOMMENDERS: Registry[Recommender] = Registry("recommender", "task2vec.recommenders")


def register_recommender(name: str) -> Callable[[Recommender], Recommender]:
    """Enter a recommender under `name`.

    Raises:
        ValueError: the name is taken.
    """
    return RECOMMENDERS.register(name)
