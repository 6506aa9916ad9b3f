"""The rows of the evaluation: every recommender, and the learned one with something else in place of the embedding.

Indices: t task.
"""

from __future__ import annotations

import dataclasses
import zlib
from collections.abc import Mapping, Sequence
from functools import partial

import numpy as np
import numpy.typing as npt

from selection.evaluation.protocol import Learn, Predict
from selection.recommenders import RECOMMENDERS, GaussianProcess, Prediction, Recommender, TaskFacts, TrialTable
from selection.recommenders.features import task_directions
from selection.recommenders.gaussian_process import START, TERMS, Directions, Wanted
from selection.recommenders.registry import Array
from task2vec import distance_matrix
from task2vec.distances.of_variances import unit
from task2vec.plots import classical_scaling

NOISE_DIMENSIONS = 64
SMALL = 150  # images


def rows_of(mean_features: Mapping[str, npt.NDArray[np.float32]] | None = None) -> dict[str, Learn]:
    """All rows by name; each learns from the evidence it is given and nothing else.

    Args:
        mean_features: For each task the mean of the probe's features `(d,)`, for the ablation that uses them.
    """
    rows = {name: _plain(recommender) for name, recommender in RECOMMENDERS.items() if name != "gaussian_process"}
    rows["gaussian_process"] = _learned(task_directions)
    if mean_features:
        rows["... with mean features"] = _learned(lambda tasks: _standardised(tasks, mean_features))
    rows["... with task facts only"] = _learned(lambda tasks: np.zeros((len(tasks), 1)))
    rows["... with noise"] = _learned(noise)
    return rows


def remedies() -> dict[str, Learn]:
    """Changes to the learned recommender that were expected to help."""
    return {
        "interactions by facts too": _uncalibrated(task_directions, tuple(START)),
        "no interactions": _uncalibrated(task_directions, tuple(term for term in TERMS if "interaction" not in term)),
        "the kernel of d_sym": _uncalibrated(by_symmetric_distance, TERMS),
        "only tasks of the target's size": _of_the_same_size,
        "half of it the best fixed configuration": _blended,
    }


def by_symmetric_distance(tasks: Sequence[TaskFacts]) -> Array:
    """Coordinates whose Euclidean distances are the square roots of d_sym, scaled to those of the embeddings."""
    distances = distance_matrix([task.embedding for task in tasks], "cosine")
    distances *= 2 / distances.max()
    points = classical_scaling(np.sqrt(distances), len(tasks) - 1)
    return np.asarray(points)


def _of_the_same_size(table: TrialTable) -> Predict:
    """One process for tasks with 100 images and one for the larger ones; for both, where there are none of a kind."""
    sizes = np.array([task.embedding.num_samples <= SMALL for task in table.tasks])
    processes = {}
    for small in (True, False):
        rows = np.flatnonzero(sizes == small) if (sizes == small).any() else np.arange(len(sizes))
        own = dataclasses.replace(table, tasks=tuple(table.tasks[t] for t in rows), scores=table.scores[rows])
        processes[small] = own, GaussianProcess.learn(own)

    def predict(wanted: Sequence[Wanted]) -> list[Prediction]:
        found = []
        for target, candidates in wanted:
            own, process = processes[target.embedding.num_samples <= SMALL]
            found.append(process(own, target, candidates))
        return found

    return predict


def _blended(table: TrialTable) -> Predict:
    """The mean of the process's expectations and the average gains, each over its own mean."""
    process = GaussianProcess.learn(table)

    def predict(wanted: Sequence[Wanted]) -> list[Prediction]:
        found = []
        for prediction, (target, candidates) in zip(process.predict(table, wanted), wanted, strict=True):
            fixed = RECOMMENDERS["best_fixed"](table, target, candidates).mean
            shift = (fixed - fixed.mean()) - (prediction.mean - prediction.mean.mean())
            found.append(dataclasses.replace(prediction, mean=prediction.mean + shift / 2))
        return found

    return predict


def _plain(recommender: Recommender) -> Learn:
    def learn(table: TrialTable) -> Predict:
        return lambda wanted: [recommender(table, target, candidates) for target, candidates in wanted]

    return learn


def _learned(directions: Directions) -> Learn:
    def learn(table: TrialTable) -> Predict:
        return partial(GaussianProcess.learn(table, directions).calibrated(table).predict, table)

    return learn


def _uncalibrated(directions: Directions, terms: tuple[str, ...]) -> Learn:
    """For choices only: a widening changes intervals, not the order."""

    def learn(table: TrialTable) -> Predict:
        return partial(GaussianProcess.learn(table, directions, terms).predict, table)

    return learn


def _standardised(tasks: Sequence[TaskFacts], features: Mapping[str, npt.NDArray[np.float32]]) -> Array:
    """Mean features without what all tasks share, of length 1, like the embeddings."""
    values = np.stack([features[task.name] for task in tasks]).astype(np.float64)
    return unit(values - values.mean(axis=0))


def noise(tasks: Sequence[TaskFacts]) -> Array:
    """Random unit vectors that say which task it is and nothing else."""
    drawn = [np.random.default_rng(zlib.crc32(task.name.encode())).standard_normal(NOISE_DIMENSIONS) for task in tasks]
    return unit(np.stack(drawn))
