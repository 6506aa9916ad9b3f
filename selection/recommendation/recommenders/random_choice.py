"""Any configuration, with equal chances: what a recommendation has to beat at the very least."""

from __future__ import annotations

import zlib
from collections.abc import Sequence

import numpy as np

from adapters import AdapterConfig
from selection.evidence.table import TaskFacts, TrialTable
from selection.recommendation.prediction import Prediction
from selection.recommendation.recommenders.registry import register_recommender


@register_recommender("random")
def random_choice(table: TrialTable, target: TaskFacts, candidates: Sequence[AdapterConfig]) -> Prediction:
    """An order that depends on the target's name alone."""
    generator = np.random.default_rng(zlib.crc32(target.name.encode()))
    return Prediction(generator.permutation(len(candidates)) / len(candidates))
