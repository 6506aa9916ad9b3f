"""Pictures of distances. matplotlib is loaded only when one is drawn."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from task2vec.distances import distance_matrix
from task2vec.distances.registry import Matrix
from task2vec.embedding import TaskEmbedding
from task2vec.style import ACCENT, COLOURS, in_style

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

NAME_PLACES = (
    (5, 3, "left", "bottom"),
    (6, 0, "left", "center"),
    (-6, 0, "right", "center"),
    (5, -3, "left", "top"),
    (-5, 3, "right", "bottom"),
    (-5, -3, "right", "top"),
    (0, 6, "center", "bottom"),
    (0, -6, "center", "top"),
    (5, 11, "left", "bottom"),
    (5, -11, "left", "top"),
    (-5, 11, "right", "bottom"),
    (-5, -11, "right", "top"),
)
"""Where a name may stand beside its point, in points from it, and which of the name's edges is there."""


@in_style
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
    image = axes.imshow(shown, cmap="cividis_r")
    axes.grid(False)
    axes.set_xticks(range(len(labels)), labels, rotation=90)
    axes.set_yticks(range(len(labels)), labels)
    axes.set_title(f"{distance} distance" + (", from row to column" if distance == "asymmetric" else ""))
    figure.colorbar(image, ax=axes, shrink=0.7, label="distance")
    return figure


@in_style
def plot_map(
    embeddings: Sequence[TaskEmbedding],
    distance: str = "log_cosine",
    *,
    names: Sequence[str] | None = None,
    highlight: Sequence[str] = (),
) -> Figure:
    """The tasks as points whose distances on the page follow their distances as tasks.

    They are placed by `metric_scaling`. How much of the difference is left is said below, as Kruskal's stress 1.
    """
    from matplotlib.figure import Figure

    labels = list(names if names is not None else [e.task for e in embeddings])
    distances = symmetric(distance_matrix(embeddings, distance))
    points = metric_scaling(distances)
    figure = Figure(figsize=(9, 7), layout="constrained")
    axes = figure.subplots()
    marked = np.array([label in highlight for label in labels])
    axes.scatter(points[~marked, 0], points[~marked, 1], s=30, color=COLOURS[0])
    axes.scatter(points[marked, 0], points[marked, 1], s=110, color=ACCENT, marker="*")
    axes.set_title(f"Tasks by {distance} distance")
    axes.margins(x=0.12, y=0.05)  # room for the names
    as_map(axes)
    on_page = np.linalg.norm(points[:, None] - points, axis=2)
    stress = np.sqrt(np.square(on_page - distances).sum() / max(float(np.square(distances).sum()), 1e-12))
    axes.set_xlabel(f"Distances on the page follow those of the tasks; stress {stress:.2f}, where 0 would be to scale.")
    name_points(axes, points, labels, bold=marked.tolist())
    return figure


def as_map(axes: Axes) -> None:
    """Axes on which only distances mean something: as long across as up, framed, without ticks."""
    axes.set_xticks([])
    axes.set_yticks([])
    axes.spines[:].set_visible(True)
    axes.set_aspect("equal", adjustable="datalim")


def name_points(
    axes: Axes, points: Matrix, names: Sequence[str], *, fontsize: float = 10, bold: Sequence[bool] | None = None
) -> None:
    """Write names beside points, each where it covers least of the other points and of the names before it.

    Call it last: it goes by the size that the figure has now.

    Args:
        axes: Where the points `(n, 2)` are drawn.
        points: In the axes' coordinates.
        names: One for each.
        fontsize: In points.
        bold: Which names are bold; none if not given.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    figure = axes.get_figure(root=True)
    assert figure is not None
    renderer = FigureCanvasAgg(figure).get_renderer()
    figure.draw_without_rendering()
    reach = 4 * figure.dpi / 72
    centres = axes.transData.transform(points)
    taken = np.hstack([centres - reach, centres + reach])
    frame = axes.get_window_extent(renderer)
    for number, (point, name) in enumerate(zip(points, names, strict=True)):
        weight = "bold" if bold is not None and bold[number] else "normal"
        note = axes.annotate(name, point, xytext=(0, 0), textcoords="offset points", fontsize=fontsize, weight=weight)
        note.set_in_layout(False)
        found = []
        for x, y, across, up in NAME_PLACES:
            note.set(position=(x, y), ha=across, va=up)
            box = np.array(note.get_window_extent(renderer).extents)
            outside = max(0, frame.x0 - box[0]) + max(0, box[2] - frame.x1)
            outside += max(0, frame.y0 - box[1]) + max(0, box[3] - frame.y1)
            found.append((_covered(box, np.delete(taken, number, 0)) + 10 * outside, box))
        best = int(np.argmin([cost for cost, _ in found]))
        x, y, across, up = NAME_PLACES[best]
        note.set(position=(x, y), ha=across, va=up)
        taken = np.vstack([taken, found[best][1]])


def _covered(box: Matrix, others: Matrix) -> float:
    """The area of `box` (left, bottom, right, top) that boxes `(n, 4)` cover, each counted by itself."""
    sides = np.minimum(box[2:], others[:, 2:]) - np.maximum(box[:2], others[:, :2])
    return float(sides.clip(min=0).prod(axis=1).sum())


def metric_scaling(distances: Matrix) -> Matrix:
    """Points `(n, 2)` whose distances follow symmetric ones `(n, n)`.

    Classical scaling gives the start, and SMACOF then minimises the sum of squared differences.
    """
    from sklearn.manifold import smacof

    if not distances.any():
        return np.zeros((len(distances), 2))
    if len(distances) < 3:
        return np.array([[i * float(distances.max()), 0.0] for i in range(len(distances))])
    points, _ = smacof(distances, init=classical_scaling(distances), n_init=1, normalized_stress=False)
    return np.asarray(points, np.float64)


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
