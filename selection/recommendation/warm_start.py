"""Whether to start from another task's adapter, and from which."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np

import adapters
from adapters import AdapterConfig, BackboneId
from adapters.settings import Settings
from selection.evidence.library import library_warm_starts
from selection.store import StoredTask, TaskFilter, TaskStore
from task2vec import TaskEmbedding


def warm_start(
    embedding: TaskEmbedding,
    store: TaskStore,
    tasks: Iterable[StoredTask],
    config: AdapterConfig,
    backbone: BackboneId,
) -> Path | None:
    """An adapter of the same method and sizes on this backbone, of the task with the smallest asymmetric distance; none
    if that distance promises no gain. Adapters that cannot be read are passed over.
    """
    fitting: dict[str, Path] = {}
    for task in tasks:
        if task.adapter is None:
            continue
        try:
            metadata = adapters.read_metadata(task.adapter)
        except adapters.AdapterError:  # lost, or of another format: `task2vec store verify` names it
            continue
        own = BackboneId.of_name(metadata["backbone"], metadata["backbone_fingerprint"])
        if own.is_same(backbone) and _same_tensors(AdapterConfig.from_dict(metadata["config"]), config):
            fitting[task.name] = task.adapter
    if not fitting:
        return None
    best = store.nearest(embedding, 1, distance="asymmetric", which=TaskFilter(names=list(fitting)))
    return fitting[best[0].name] if best and expected_gain(best[0].distance) > 0 else None


def expected_gain(distance: float) -> float:
    """By how much a start from another task's adapter raises the test accuracy, at an asymmetric distance to that task.

    A straight line through the shipped trials (docs/evaluation.md), less its standard error at that distance, so that
    a gain is one that the trials show; 0 without any.
    """
    rows = library_warm_starts()
    if not rows:
        return 0.0
    rate = max(row["rate"] for row in rows)
    own = [row for row in rows if row["rate"] == rate]
    gains = [row["warm"] - row["cold"] for row in own]
    line, covariance = np.polyfit([row["distance"] for row in own], gains, 1, cov=True)
    at = np.array([distance, 1.0])
    return float(line @ at - np.sqrt(at @ covariance @ at))


def _same_tensors(a: AdapterConfig, b: AdapterConfig) -> bool:
    """Whether two configurations differ at most in how they are trained."""
    training = dict.fromkeys(Settings.declared())
    return a.replace(**training) == b.replace(**training)
