"""Model2Vec with configurations as experts: each has a place among the tasks, learned from where it was best."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from adapters import AdapterConfig
from selection.evidence.table import TaskFacts, TrialTable
from selection.recommendation.model2vec import Model2Vec
from selection.recommendation.prediction import Prediction
from selection.recommendation.recommenders.registry import register_recommender

STEPS = 30  # of L-BFGS: the order is settled long before the likelihood is


@register_recommender("model2vec")
def model2vec_choice(table: TrialTable, target: TaskFacts, candidates: Sequence[AdapterConfig]) -> Prediction:
    """The probability of being the best; what was never the best on any task comes last."""
    tried = [i for i, config in enumerate(table.configs) if config in candidates]
    scores = table.scores[:, tried]
    some = np.asarray(np.isfinite(scores).any(axis=1))
    best = [str(tried[i]) for i in np.nanargmax(np.where(np.isfinite(scores), scores, -np.inf)[some], axis=1)]
    mean = np.zeros(len(candidates))
    if len(set(best)) > 1:
        embeddings = [task.embedding for task, kept in zip(table.tasks, some.tolist(), strict=True) if kept]
        for name, probability in Model2Vec.fit(embeddings, best, steps=STEPS).probabilities(target.embedding).items():
            mean[list(candidates).index(table.configs[int(name)])] = probability
    elif best:
        mean[list(candidates).index(table.configs[int(best[0])])] = 1.0
    return Prediction(mean)
