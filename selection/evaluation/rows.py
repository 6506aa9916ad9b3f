"""The rows of the evaluation: every recommender, and the default one with something else in place of the embedding.

Indices: t task.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from functools import partial

import numpy as np
import numpy.typing as npt

from selection.evaluation.protocol import Learn, Predict
from selection.evidence.table import Array, TaskFacts, TrialTable
from selection.recommendation.prediction import Prediction
from selection.recommendation.recommenders import RECOMMENDERS, GaussianProcess, Recommender
from selection.recommendation.recommenders.average import with_others
from selection.recommendation.recommenders.features import (
    Described,
    probe_directions,
    probe_directions_by_depth,
    task_directions,
    task_numbers,
)
from selection.recommendation.recommenders.gaussian_process import Wanted
from task2vec.distances.of_variances import unit

LEARNED, AVERAGE, BASELINE = "gaussian_process", "average", "best_fixed"
BY_DEPTH = "gaussian_process, probe's embedding by depth"
MODELS = (LEARNED, AVERAGE, BY_DEPTH, "boosted_trees", "factorisation")  # that learn from the trials
CHOSEN = "the model that chose best for other sources"
UNDER_PROBE = "... with the embedding under the probe"
MEANS = "... with mean features"
NOISE, FACTS_ONLY, EMBEDDING_ONLY = "... with noise", "... with task facts only", "... with the embedding only"
NOISE_DIMENSIONS = 64


def rows_of(mean_features: Mapping[str, npt.NDArray[np.float32]] | None = None) -> dict[str, Learn]:
    """All rows by name; each learns from the evidence it is given and nothing else.

    Args:
        mean_features: For each task the mean of a network's features `(d,)`, for the ablation that uses them.
    """
    rows = {name: _plain(own) for name, own in RECOMMENDERS.items() if name not in (LEARNED, AVERAGE)}
    rows[AVERAGE] = _averaged
    rows[BY_DEPTH] = _process(probe_directions_by_depth)
    rows[LEARNED] = _process(task_directions)
    rows[UNDER_PROBE] = _process(probe_directions)
    if mean_features:
        rows[MEANS] = _process(lambda tasks: _standardised(tasks, mean_features))
    rows["... with shuffled embeddings"] = _process(shuffled)
    rows[NOISE] = _process(noise)
    rows[FACTS_ONLY] = _process(nothing)
    rows[EMBEDDING_ONLY] = _process(task_directions, nothing)
    return rows


def _plain(recommender: Recommender) -> Learn:
    def learn(table: TrialTable) -> Predict:
        return lambda wanted: [recommender(table, target, candidates) for target, candidates in wanted]

    return learn


def _process(directions: Described, numbers: Described = task_numbers) -> Learn:
    def learn(table: TrialTable) -> Predict:
        return partial(GaussianProcess.learn(table, directions, numbers).calibrated(table).predict, table)

    return learn


def _averaged(table: TrialTable) -> Predict:
    process = _process(task_directions)(table)

    def predict(wanted: Sequence[Wanted]) -> list[Prediction]:
        pairs = zip(process(wanted), wanted, strict=True)
        return [with_others(own, table, target, candidates) for own, (target, candidates) in pairs]

    return predict


def _standardised(tasks: Sequence[TaskFacts], features: Mapping[str, npt.NDArray[np.float32]]) -> Array:
    """Mean features without what all tasks share, of length 1, like the embeddings."""
    values = np.stack([features[task.name] for task in tasks]).astype(np.float64)
    return unit(values - values.mean(axis=0))


def nothing(tasks: Sequence[TaskFacts]) -> Array:
    """The same for every task."""
    return np.zeros((len(tasks), 1))


def noise(tasks: Sequence[TaskFacts]) -> Array:
    """Random unit vectors that say which task it is and nothing else."""
    drawn = [np.random.default_rng(zlib.crc32(task.name.encode())).standard_normal(NOISE_DIMENSIONS) for task in tasks]
    return unit(np.stack(drawn))


def shuffled(tasks: Sequence[TaskFacts]) -> Array:
    """Each task with the embedding of another one: the same vectors, of which none belongs to its task."""
    order = np.random.default_rng(0).permutation(len(tasks))
    return task_directions(tasks)[np.roll(order, 1)[np.argsort(order)]]
