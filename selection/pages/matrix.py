"""The distance matrix with similar tasks side by side, and the tree that orders them."""

from __future__ import annotations

import dataclasses

import numpy as np
import numpy.typing as npt

from task2vec.plots import symmetric

Array = npt.NDArray[np.float64]


@dataclasses.dataclass(frozen=True)
class Ordered:
    """A distance matrix in the order of its dendrogram (average linkage).

    Attributes:
        order: Which task stands in each row.
        distances: float64 `(n, n)` in this order, from row to column.
        branches: For each join of the tree, the places of its four corners among the rows and their heights.
    """

    order: tuple[int, ...]
    distances: Array
    branches: tuple[tuple[tuple[float, ...], tuple[float, ...]], ...]


def ordered(distances: Array) -> Ordered:
    """Order distances `(n, n)`; fewer than three tasks keep their order and have no tree."""
    from scipy.cluster.hierarchy import dendrogram, linkage
    from scipy.spatial.distance import squareform

    if len(distances) < 3:
        return Ordered(tuple(range(len(distances))), distances, ())
    tree = dendrogram(linkage(squareform(symmetric(distances), checks=False), "average"), no_plot=True)
    order = [int(leaf) for leaf in tree["leaves"]]
    # scipy draws leaf i at 10 i + 5.
    branches = tuple(
        (tuple(x / 10 - 0.5 for x in across), tuple(heights))
        for across, heights in zip(tree["icoord"], tree["dcoord"], strict=True)
    )
    return Ordered(tuple(order), distances[np.ix_(order, order)], branches)
