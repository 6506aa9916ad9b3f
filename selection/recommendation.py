"""Which adapter to tune on a new task, from what worked on the stored tasks nearest to it.

Indices: i neighbour, c configuration.

With distances d_i, weights w_i proportional to 1 / d_i^2 (Shepard 1968) and scores y_ic, a configuration's gain on a
task is its score over the task's mean score m_i, so that easy tasks do not make their configurations look good:

    predicted_c = sum_i w_i m_i + sum_i w_i (y_ic - m_i)

The second sum runs over the neighbours on which c was tried, with their weights scaled up to sum to 1. The spread is
the standard deviation of y_ic over the same neighbours with the same weights.
"""

from __future__ import annotations

import copy
import dataclasses
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import timm
from torch import nn

import adapters
from adapters import AdapterConfig
from selection.errors import RecommendationError
from selection.store import Neighbour, TaskStore
from selection.trials import Trial
from task2vec import TaskEmbedding


@dataclasses.dataclass(frozen=True)
class Candidate:
    """A configuration with what is expected of it.

    Attributes:
        config: The configuration.
        predicted: Expected top-1 accuracy, in [0, 1].
        std: Spread of its score over the neighbours.
        parameters: Trainable parameters beside the classifier's.
        seconds: Expected training time on the machine that made the trials, for as many images as the target has.
    """

    config: AdapterConfig
    predicted: float
    std: float
    parameters: int
    seconds: float


@dataclasses.dataclass(frozen=True)
class Evidence:
    """A stored task that the recommendation rests on.

    Attributes:
        task: Its name.
        distance: How far it is from the target.
        weight: Its share of the prediction.
        score: What the recommended configuration scored there; None if it was not tried.
        best: The configuration that scored best there.
        best_score: Its score.
    """

    task: str
    distance: float
    weight: float
    score: float | None
    best: AdapterConfig
    best_score: float


@dataclasses.dataclass(frozen=True)
class Recommendation:
    """Configurations ranked for a target task.

    Attributes:
        ranking: All candidates, best first.
        evidence: The neighbours, nearest first.
        warm_start: A tuned adapter of the recommended configuration on the nearest task that has one.
        note: What to know about where the evidence comes from; empty if nothing.
    """

    ranking: tuple[Candidate, ...]
    evidence: tuple[Evidence, ...]
    warm_start: Path | None = None
    note: str = ""

    @property
    def config(self) -> AdapterConfig:
        """The configuration to tune."""
        return self.ranking[0].config

    @property
    def predicted(self) -> float:
        """Its expected top-1 accuracy, in [0, 1]."""
        return self.ranking[0].predicted

    @property
    def std(self) -> float:
        """The spread of its score over the neighbours."""
        return self.ranking[0].std


def recommend(
    embedding: TaskEmbedding,
    store: TaskStore,
    backbone: str | nn.Module = adapters.DEFAULT_BACKBONE,
    *,
    k: int = 5,
    distance: str = "log_cosine",
    max_params: int | None = None,
    max_seconds: float | None = None,
    exclude: Sequence[str] = (),
) -> Recommendation:
    """Rank the configurations that were tried on the k nearest tasks, for a target task.

    Args:
        embedding: The target.
        store: Where tasks and their trials are kept; `selection.load_library()` is shipped with the package.
        backbone: What will be tuned. Trials on it are preferred; without any, those on other backbones are used, and
            `note` says so.
        k: How many tasks with trials to consider.
        distance: Any of `task2vec.DISTANCES`.
        max_params: Leave out configurations with more trainable parameters than this (classifier not counted).
        max_seconds: Leave out configurations whose expected training time is longer.
        exclude: Names of tasks to leave out.

    Raises:
        RecommendationError: no stored task has trials that fit the backbone and the limits.
        StoreError: no stored task was embedded by the same probe and estimator.
    """
    neighbours, trials, note = _neighbours_with_trials(embedding, store, backbone, k, distance, exclude)
    weights = shepard_weights(np.array([n.distance for n in neighbours]))
    candidates = [
        _candidate(config, trials, weights, embedding.num_samples)
        for config in {config for by_config in trials for config in by_config}
    ]
    candidates.sort(key=lambda candidate: (-candidate.predicted, candidate.parameters, candidate.config.label))
    ranking = _within(candidates, max_params, max_seconds)
    evidence = tuple(
        _evidence(neighbour, weight, by_config, ranking[0].config)
        for neighbour, weight, by_config in zip(neighbours, weights, trials, strict=True)
    )
    return Recommendation(ranking, evidence, _warm_start(store, neighbours, ranking[0].config, backbone), note)


def shepard_weights(distances: np.ndarray) -> np.ndarray:
    """Weights that sum to 1, proportional to the inverse square of the distance; asymmetric ones may be negative."""
    positive = distances - min(0.0, float(distances.min()))
    inverse = 1 / (positive + 1e-6) ** 2
    return np.asarray(inverse / inverse.sum())


TrialsByConfig = dict[AdapterConfig, list[Trial]]


def _candidate(config: AdapterConfig, trials: list[TrialsByConfig], weights: np.ndarray, num_images: int) -> Candidate:
    """What the neighbours' trials, one mapping for each, say of a configuration."""
    means = np.array([np.mean([t.score for runs in by_config.values() for t in runs]) for by_config in trials])
    tried = np.array([config in by_config for by_config in trials])
    scores = np.array([np.mean([t.score for t in by_config[config]]) for by_config in trials if config in by_config])
    share = weights[tried] / weights[tried].sum()
    runs = [t for by_config in trials for t in by_config.get(config, ())]
    return Candidate(
        config,
        predicted=float(weights @ means + share @ (scores - means[tried])),
        std=float(np.sqrt(share @ (scores - share @ scores) ** 2)),
        parameters=runs[0].parameters,
        seconds=float(np.mean([t.seconds / t.num_images for t in runs])) * num_images,
    )


def _within(candidates: list[Candidate], max_params: int | None, max_seconds: float | None) -> tuple[Candidate, ...]:
    """The candidates that keep to the limits, in the same order."""
    within = tuple(
        candidate
        for candidate in candidates
        if (max_params is None or candidate.parameters <= max_params)
        and (max_seconds is None or candidate.seconds <= max_seconds)
    )
    if not within:
        smallest, quickest = min(c.parameters for c in candidates), min(c.seconds for c in candidates)
        raise RecommendationError(
            f"no configuration keeps to max_params={max_params} and max_seconds={max_seconds}; the smallest has "
            f"{smallest} parameters and the quickest takes about {quickest:.0f} s"
        )
    return within


def _neighbours_with_trials(
    embedding: TaskEmbedding,
    store: TaskStore,
    backbone: str | nn.Module,
    k: int,
    distance: str,
    exclude: Sequence[str],
) -> tuple[list[Neighbour], list[TrialsByConfig], str]:
    """The k nearest tasks that have trials which fit the backbone, those trials, and where they come from."""
    if k < 1:
        raise RecommendationError(f"k={k} considers no task; give at least 1")
    name = backbone if isinstance(backbone, str) else adapters.backbone_name(backbone)
    nearest = store.nearest(embedding, k=len(store), distance=distance, exclude=exclude)
    stored = {n.name: store.task(n.name).trials for n in nearest}
    note = ""
    if not any(t.backbone == name for trials in stored.values() for t in trials):
        stored, note = _from_other_backbones(stored, backbone, name)
    neighbours: list[Neighbour] = []
    by_task: list[TrialsByConfig] = []
    for neighbour in nearest:
        by_config: TrialsByConfig = defaultdict(list)
        for trial in stored[neighbour.name]:
            if note or trial.backbone == name:
                by_config[trial.config].append(trial)
        if by_config and len(neighbours) < k:
            neighbours.append(neighbour)
            by_task.append(dict(by_config))
    if not neighbours:
        raise RecommendationError(
            f"{store.location} has no trials that fit {name}; tune configurations on stored tasks and add them"
        )
    return neighbours, by_task, note


def _from_other_backbones(
    stored: dict[str, tuple[Trial, ...]], backbone: str | nn.Module, name: str
) -> tuple[dict[str, tuple[Trial, ...]], str]:
    """The trials whose configurations fit a backbone that has none of its own, with parameters counted on it."""
    if isinstance(backbone, str) and not timm.is_model(backbone):
        raise RecommendationError(f"timm knows no model {backbone!r}; timm.list_models() names those it has")
    model: nn.Module = timm.create_model(backbone) if isinstance(backbone, str) else backbone
    configs = {t.config for trials in stored.values() for t in trials if t.config.blocks is None}
    counts = {config: count for config in configs if (count := _parameters_on(model, config)) is not None}
    fitting = {
        task: tuple(dataclasses.replace(t, parameters=counts[t.config]) for t in trials if t.config in counts)
        for task, trials in stored.items()
    }
    others = sorted({t.backbone for trials in fitting.values() for t in trials})
    return fitting, (
        f"no stored trial used {name}: the ranking rests on {', '.join(others)}, "
        "so trust its order more than its accuracies"
    )


def _parameters_on(model: nn.Module, config: AdapterConfig) -> int | None:
    """Trainable parameters of a configuration on a backbone, classifier not counted; None if it does not fit."""
    try:
        return adapters.num_adapter_parameters(adapters.attach(copy.deepcopy(model), config, num_classes=2))
    except adapters.AdapterError:
        return None


def _evidence(neighbour: Neighbour, weight: float, by_config: TrialsByConfig, recommended: AdapterConfig) -> Evidence:
    scores = {config: float(np.mean([t.score for t in trials])) for config, trials in by_config.items()}
    best = max(scores, key=lambda config: scores[config])
    return Evidence(neighbour.name, neighbour.distance, float(weight), scores.get(recommended), best, scores[best])


def _warm_start(
    store: TaskStore, neighbours: list[Neighbour], config: AdapterConfig, backbone: str | nn.Module
) -> Path | None:
    name = backbone if isinstance(backbone, str) else adapters.backbone_name(backbone)
    for neighbour in neighbours:
        path = store.task(neighbour.name).adapter
        if path is None:
            continue
        metadata = adapters.read_metadata(path)
        if metadata["backbone"] == name and AdapterConfig.from_dict(metadata["config"]) == config:
            return path
    return None
