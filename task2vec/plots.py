"""Pictures of distances. matplotlib is loaded only when one is drawn."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from task2vec.distances import distance_matrix
from task2vec.distances.registry import Matrix
from task2vec.embedding import TaskEmbedding

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def plot_distances(
    embeddings: Sequence[TaskEmbedding], distance: str = "cosine", *, names: Sequence[str] | None = None
) -> Figure:
    """The distance matrix as an image, similar tasks side by side (average-linkage order)."""
    from matplotlib.figure import Figure
    from scipy.cluster.hierarchy import leaves_list, linkage
    from scipy.spatial.distance import squareform

    labels = np.array(names if names is not None else [e.task for e in embeddings])
    distances = distance_matrix(embeddings, distance)
    if len(labels) > 2:
        order = leaves_list(linkage(squareform(symmetric(distances), checks=False), "average"))
        distances, labels = distances[np.ix_(order, order)], labels[order]
    side = 3 + 0.28 * len(labels)
    figure = Figure(figsize=(side, side), layout="constrained")
    axes = figure.subplots()
    shown = np.where(np.eye(len(labels), dtype=bool), np.nan, distances)
    image = axes.imshow(shown, cmap="viridis_r")
    axes.set_xticks(range(len(labels)), labels, rotation=90)
    axes.set_yticks(range(len(labels)), labels)
    axes.set_title(f"{distance} distance" + (", from row to column" if distance == "asymmetric" else ""))
    figure.colorbar(image, ax=axes, shrink=0.7)
    return figure


def plot_map(
    embeddings: Sequence[TaskEmbedding],
    distance: str = "log_cosine",
    *,
    names: Sequence[str] | None = None,
    highlight: Sequence[str] = (),
) -> Figure:
    """The tasks as points whose distances on the page follow their distances as tasks.

    Metric scaling: classical scaling gives the start, and SMACOF then minimises the sum of squared differences.
    """
    from matplotlib.figure import Figure
    from sklearn.manifold import smacof

    labels = list(names if names is not None else [e.task for e in embeddings])
    distances = symmetric(distance_matrix(embeddings, distance))
    points, _ = smacof(distances, init=classical_scaling(distances), n_init=1, normalized_stress=False)
    figure = Figure(figsize=(9, 7), layout="constrained")
    axes = figure.subplots()
    marked = np.array([label in highlight for label in labels])
    axes.scatter(points[~marked, 0], points[~marked, 1], s=30, color="tab:blue")
    axes.scatter(points[marked, 0], points[marked, 1], s=90, color="tab:red", marker="*")
    for point, label, is_marked in zip(points, labels, marked, strict=True):
        axes.annotate(label, point, xytext=(5, 3), textcoords="offset points", weight="bold" if is_marked else "normal")
    axes.set_title(f"Tasks by {distance} distance")
    axes.margins(x=0.12, y=0.05)  # room for the names
    axes.set_xticks([])
    axes.set_yticks([])
    return figure


def classical_scaling(distances: Matrix, dimensions: int = 2) -> Matrix:
    """Coordinates `(n, dimensions)` from distances `(n, n)`: the leading eigenvectors of the doubly centred squares."""
    n = len(distances)
    centring = np.eye(n) - 1 / n
    values, vectors = np.linalg.eigh(-0.5 * centring @ distances**2 @ centring)
    leading = np.argsort(values)[::-1][:dimensions]
    coordinates = np.zeros((n, dimensions))
    coordinates[:, : len(leading)] = vectors[:, leading] * np.sqrt(values[leading].clip(min=0))
    return coordinates


def symmetric(distances: Matrix) -> Matrix:
    """Distances `(n, n)` as the same in both directions: means of both, none below 0, 0 to oneself."""
    means = (distances + distances.T) / 2
    means -= means.min() if means.size and means.min() < 0 else 0  # asymmetric distances may be negative
    np.fill_diagonal(means, 0)
    return np.asarray(means)
