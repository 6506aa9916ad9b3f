"""Tuning from another task's adapter beside tuning from scratch."""

from __future__ import annotations

import dataclasses
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np


@dataclasses.dataclass(frozen=True)
class WarmStarts:
    """How often and by how much a start from an expert was better, over targets, seeds averaged.

    Attributes:
        targets: How many.
        better: Share of them that ended better.
        worse: Share that ended worse.
        gain: Mean difference of test accuracies.
        predicted: Targets for which a gain was predicted.
        better_where_predicted: Share of those that ended better.
        worse_where_predicted: Share of those that ended worse.
        gain_where_predicted: Their mean difference.
    """

    targets: int
    better: float
    worse: float
    gain: float
    predicted: int
    better_where_predicted: float
    worse_where_predicted: float
    gain_where_predicted: float


def warm_starts_by_rate(rows: Sequence[Mapping[str, Any]]) -> dict[float, WarmStarts]:
    """What the trials say for each learning rate, the largest first; rows as for `warm_starts`."""
    rates = sorted({row["rate"] for row in rows}, reverse=True)
    return {rate: warm_starts([row for row in rows if row["rate"] == rate]) for rate in rates}


def warm_starts(rows: Sequence[Mapping[str, Any]]) -> WarmStarts:
    """What the trials say; a gain is predicted from the targets of other sources.

    Args:
        rows: One for each target and seed, as `benchmarks/experts.py warm` writes them.
    """
    gains: dict[str, list[float]] = defaultdict(list)
    distances, sources = {}, {}
    for row in rows:
        gains[row["target"]].append(row["warm"] - row["cold"])
        distances[row["target"]], sources[row["target"]] = row["distance"], row["source"]
    names = sorted(gains)
    gain = np.array([np.mean(gains[name]) for name in names])
    distance = np.array([distances[name] for name in names])
    source = np.array([sources[name] for name in names])
    predicted = np.zeros(len(names), bool)
    for i in range(len(names)):
        others = source != source[i]
        if others.sum() > 2:
            slope, offset = np.polyfit(distance[others], gain[others], 1)
            predicted[i] = slope * distance[i] + offset > 0
    chosen = gain[predicted] if predicted.any() else np.array([np.nan])
    return WarmStarts(
        len(names),
        float((gain > 0).mean()),
        float((gain < 0).mean()),
        float(gain.mean()),
        int(predicted.sum()),
        float((chosen > 0).mean()),
        float((chosen < 0).mean()),
        float(chosen.mean()),
    )
