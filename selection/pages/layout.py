"""Where tasks lie on the map, and how far one may believe it.

`mds` is metric scaling: positions whose distances differ least from the tasks' distances (SMACOF, De Leeuw 1977).
`tsne` keeps neighbours together and gives up on the distances between those that are none (Van der Maaten and Hinton
2008). UMAP kept neighbours no better than t-SNE on the shipped library, and is one more package.

With many tasks a sample of them is placed so, the landmarks, and each other task then against the landmarks alone, so
that no distance between two tasks that are no landmarks is needed.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

from selection.errors import SelectionError
from task2vec.plots import classical_scaling, metric_scaling, symmetric

Array = npt.NDArray[np.float64]
Between = Callable[[Sequence[int], Sequence[int]], Array]
"""Distances `(n, m)` from some tasks to others, by their numbers."""

LANDMARKS = 1000
STEPS = 60  # of each task that is no landmark, at most
STILL = 1e-3  # of the map's extent: a step shorter than that is the last
CHUNK = 2000  # tasks that are placed at once
NEIGHBOURS = 5  # that trustworthiness asks for
PERPLEXITY = 15.0  # about how many neighbours of each t-SNE keeps


@dataclasses.dataclass(frozen=True)
class Layout:
    """Positions and their faithfulness.

    Attributes:
        points: float64 `(n, 2)`.
        by: How they were found, one of `MAPS`.
        trustworthiness: How rarely tasks are neighbours on the map that are none in truth, in [0, 1], 1 at best (Venna
            and Kaski 2001); None with too few tasks.
        neighbours: How many neighbours of each it counted.
        stress: Kruskal's stress 1: the root of the squared differences between distances on the map and in truth, as a
            share of the squared distances; 0 at best; None with too few tasks.
        measured_on: How many tasks these two were measured on: all, or a sample of many.
    """

    points: Array
    by: str
    trustworthiness: float | None
    neighbours: int
    stress: float | None
    measured_on: int


def place(between: Between, n: int, by: str = "mds", *, landmarks: int = LANDMARKS, seed: int = 0) -> Layout:
    """Place n tasks on a plane.

    Args:
        between: Their distances, which need not be the same in both directions; the mean of both counts.
        n: How many tasks there are.
        by: One of `MAPS`.
        landmarks: With more tasks than this, so many are placed first and the others against them.
        seed: Fixes which they are.

    Raises:
        SelectionError: there is no such map.
    """
    if by not in MAPS:
        raise SelectionError(f"there is no map {by!r}; choose from {', '.join(MAPS)}")
    together, against = MAPS[by]
    everyone = list(range(n))
    if n <= landmarks:
        distances = symmetric(between(everyone, everyone))
        return _judged(together(distances), distances, by)
    generator = np.random.default_rng(seed)
    chosen = sorted(generator.choice(n, landmarks, replace=False).tolist())
    points = np.empty((n, 2))
    points[chosen] = together(symmetric(between(chosen, chosen)))
    others = sorted(set(everyone) - set(chosen))
    for start in range(0, len(others), CHUNK):
        some = others[start : start + CHUNK]
        distances = (between(some, chosen) + between(chosen, some).T) / 2
        points[some] = against(distances.clip(min=0), points[chosen])
    sample = sorted(generator.choice(n, landmarks, replace=False).tolist())
    return _judged(points[sample], symmetric(between(sample, sample)), by, points)


def placed_against(distances: Array, landmarks: Array) -> Array:
    """Positions `(n, 2)` of tasks with distances `(n, l)` to landmarks that lie at `(l, 2)` and stay there.

    Each starts beside its nearest landmarks. A step of SMACOF for a single point moves it to the mean of where each
    landmark would have it: at the true distance, in the direction in which it lies now.
    """
    # With f = distance / length of each pair, the mean is that of the landmarks + f (point - landmark). Products of
    # matrices say it without a vector for each pair, and half the digits are far more than a picture shows.
    centre = landmarks.mean(0)
    fixed = (landmarks - centre).astype(np.float32)
    points = (placed_between(distances, landmarks) - centre).astype(np.float32)
    wanted, squares = distances.astype(np.float32), np.square(fixed).sum(1)
    enough = STILL * float(np.sqrt(squares.mean()))
    for _ in range(STEPS):
        lengths = points @ (-2 * fixed.T)
        lengths += squares
        lengths += np.square(points).sum(1, keepdims=True)
        np.sqrt(lengths.clip(min=1e-12, out=lengths), out=lengths)
        factors = np.divide(wanted, lengths, out=lengths)
        moved = (points * factors.sum(1, keepdims=True) - factors @ fixed) / len(fixed)
        step, points = float(np.abs(moved - points).max()), moved
        if step < enough:
            break
    return points + centre


def neighbourly(distances: Array) -> Array:
    """Positions `(n, 2)` for symmetric distances `(n, n)` by t-SNE, in the scale that fits the distances best."""
    from sklearn.manifold import TSNE

    if len(distances) < 4 or not distances.any():
        return metric_scaling(distances)
    start = classical_scaling(distances)
    start *= 1e-4 / max(float(start.std()), 1e-12)
    perplexity = min(PERPLEXITY, (len(distances) - 1) / 3)
    tsne = TSNE(metric="precomputed", init=start.astype(np.float32), perplexity=perplexity, random_state=0)
    points = np.asarray(tsne.fit_transform(distances), np.float64)
    on_map = np.linalg.norm(points[:, None] - points, axis=2)
    return points * float((on_map * distances).sum() / max(float(np.square(on_map).sum()), 1e-12))


def placed_between(distances: Array, landmarks: Array) -> Array:
    """Positions `(n, 2)` of tasks with distances `(n, l)` to landmarks at `(l, 2)`: means of the three nearest ones."""
    nearest = np.argsort(distances, axis=1)[:, :3]
    weights = 1 / (np.take_along_axis(distances, nearest, 1) + 1e-9)
    return np.asarray(np.einsum("nk,nkd->nd", weights / weights.sum(1, keepdims=True), landmarks[nearest]))


MAPS: dict[str, tuple[Callable[[Array], Array], Callable[[Array, Array], Array]]] = {
    "mds": (metric_scaling, placed_against),
    "tsne": (neighbourly, placed_between),
}
"""How tasks are placed together, and how others are against those."""


def _judged(points: Array, distances: Array, by: str, everyone: Array | None = None) -> Layout:
    from sklearn.manifold import trustworthiness

    everyone = points if everyone is None else everyone
    n = len(points)
    if n < 4 or not distances.any():
        return Layout(everyone, by, None, 0, None, n)
    neighbours = min(NEIGHBOURS, (n - 1) // 2)
    on_map = np.linalg.norm(points[:, None] - points, axis=2)
    stress = float(np.sqrt(np.square(on_map - distances).sum() / np.square(distances).sum()))
    trusted = float(trustworthiness(distances, points, n_neighbors=neighbours, metric="precomputed"))
    return Layout(everyone, by, trusted, neighbours, stress, n)
