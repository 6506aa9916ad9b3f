"""Where tasks lie on the map, and how far one may believe it.

Metric scaling: positions whose distances differ least from the tasks' distances (SMACOF, De Leeuw 1977).
With many tasks a sample of them is placed so, the landmarks, and each other task is then moved by the same rule against
the landmarks alone, so that no distance between two tasks that are no landmarks is needed.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

from task2vec.plots import classical_scaling, symmetric

Array = npt.NDArray[np.float64]
Between = Callable[[Sequence[int], Sequence[int]], Array]
"""Distances `(n, m)` from some tasks to others, by their numbers."""

LANDMARKS = 1000
STEPS = 60  # of each task that is no landmark
CHUNK = 2000  # tasks that are placed at once
NEIGHBOURS = 5  # that trustworthiness asks for


@dataclasses.dataclass(frozen=True)
class Layout:
    """Positions and their faithfulness.

    Attributes:
        points: float64 `(n, 2)`.
        trustworthiness: How rarely tasks are neighbours on the map that are none in truth, in [0, 1], 1 at best (Venna
            and Kaski 2001); None with too few tasks.
        neighbours: How many neighbours of each it counted.
        stress: Kruskal's stress 1: the root of the squared differences between distances on the map and in truth, as a
            share of the squared distances; 0 at best; None with too few tasks.
        measured_on: How many tasks these two were measured on: all, or a sample of many.
    """

    points: Array
    trustworthiness: float | None
    neighbours: int
    stress: float | None
    measured_on: int


def place(between: Between, n: int, *, landmarks: int = LANDMARKS, seed: int = 0) -> Layout:
    """Place n tasks on a plane.

    Args:
        between: Their distances, which need not be the same in both directions; the mean of both counts.
        n: How many tasks there are.
        landmarks: With more tasks than this, so many are placed first and the others against them.
        seed: Fixes which they are.
    """
    everyone = list(range(n))
    if n <= landmarks:
        distances = symmetric(between(everyone, everyone))
        points = scaled(distances)
        return _judged(points, distances)
    generator = np.random.default_rng(seed)
    chosen = sorted(generator.choice(n, landmarks, replace=False).tolist())
    points = np.empty((n, 2))
    points[chosen] = scaled(symmetric(between(chosen, chosen)))
    others = sorted(set(everyone) - set(chosen))
    for start in range(0, len(others), CHUNK):
        some = others[start : start + CHUNK]
        distances = (between(some, chosen) + between(chosen, some).T) / 2
        points[some] = placed_against(distances.clip(min=0), points[chosen])
    sample = sorted(generator.choice(n, landmarks, replace=False).tolist())
    return _judged(points[sample], symmetric(between(sample, sample)), points)


def scaled(distances: Array) -> Array:
    """Positions `(n, 2)` for symmetric distances `(n, n)`, from the start that classical scaling gives."""
    from sklearn.manifold import smacof

    if not distances.any():
        return np.zeros((len(distances), 2))
    if len(distances) < 3:
        return np.array([[i * float(distances.max()), 0.0] for i in range(len(distances))]).reshape(-1, 2)
    points, _ = smacof(distances, init=classical_scaling(distances), n_init=1, normalized_stress=False)
    return np.asarray(points, np.float64)


def placed_against(distances: Array, landmarks: Array) -> Array:
    """Positions `(n, 2)` of tasks with distances `(n, l)` to landmarks that lie at `(l, 2)` and stay there.

    Each starts beside its nearest landmarks. A step of SMACOF for a single point moves it to the mean of where each
    landmark would have it: at the true distance, in the direction in which it lies now.
    """
    nearest = np.argsort(distances, axis=1)[:, :3]
    weights = 1 / (np.take_along_axis(distances, nearest, 1) + 1e-9)
    points = np.einsum("nk,nkd->nd", weights / weights.sum(1, keepdims=True), landmarks[nearest])
    for _ in range(STEPS):
        away = points[:, None] - landmarks
        lengths = np.linalg.norm(away, axis=2)
        factors = distances / np.maximum(lengths, 1e-12)
        points = landmarks.mean(0) + np.einsum("nl,nld->nd", factors, away) / len(landmarks)
    return points


def _judged(points: Array, distances: Array, everyone: Array | None = None) -> Layout:
    from sklearn.manifold import trustworthiness

    everyone = points if everyone is None else everyone
    n = len(points)
    if n < 4 or not distances.any():
        return Layout(everyone, None, 0, None, n)
    neighbours = min(NEIGHBOURS, (n - 1) // 2)
    on_map = np.linalg.norm(points[:, None] - points, axis=2)
    stress = float(np.sqrt(np.square(on_map - distances).sum() / np.square(distances).sum()))
    trusted = float(trustworthiness(distances, points, n_neighbors=neighbours, metric="precomputed"))
    return Layout(everyone, trusted, neighbours, stress, n)
