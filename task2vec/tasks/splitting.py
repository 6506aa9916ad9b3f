"""Which images of a task to set aside, or to take as a sample, from the labels alone."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from task2vec.tasks.labels import Labels


def strata(labels: Labels, num_classes: int) -> list[npt.NDArray[np.int64]]:
    """The images of each class; all together where they may be of several."""
    if labels.ndim == 2:
        return [np.arange(len(labels))]
    return [np.flatnonzero(labels == label) for label in range(num_classes)]


def held_out(parts: list[npt.NDArray[np.int64]], share: float, seed: int) -> npt.NDArray[np.int64]:
    """About a share of the images of each stratum, at least one, but never all."""
    generator = np.random.default_rng(seed)
    held = []
    for stratum in parts:
        members = generator.permutation(stratum)
        count = min(max(1, round(share * len(members))), len(members) - 1)
        held.append(members[: max(0, count)])
    return np.sort(np.concatenate(held))


def spread_evenly(parts: list[npt.NDArray[np.int64]], count: int, seed: int) -> npt.NDArray[np.int64]:
    """So many images, from the strata in proportion to their sizes, at least one of each.

    The r-th image of a stratum of n stands at place (r + 1/2) / n; the first `count` by their places are taken.
    """
    total = sum(map(len, parts))
    rank = np.random.default_rng(seed).permutation(total).argsort()
    place = np.empty(total)
    for stratum in parts:
        members = stratum[rank[stratum].argsort()]
        place[members] = (np.arange(len(members)) + 0.5) / max(1, len(members))
        place[members[:1]] = -1.0
    return np.sort(np.argsort(place, kind="stable")[:count])
