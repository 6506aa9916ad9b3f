"""Which adapter to tune on a new task, from what worked on the stored tasks: candidates, limits, and the answer."""

from __future__ import annotations

import dataclasses
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import timm
from scipy.stats import norm
from torch import nn

import adapters
from adapters import METHODS, AdapterConfig, BackboneId
from selection.errors import RecommendationError
from selection.library import library_warm_starts
from selection.published import RESULTS, published_gains
from selection.recommenders import RECOMMENDERS, Prediction, TaskFacts, TrialTable
from selection.space import parameters_on
from selection.store import StoredTask, TaskStore
from selection.table import table_of
from selection.trials import Trial
from task2vec import TaskEmbedding

DEFAULT_RECOMMENDER = "gaussian_process"
CONSIDERED = 150  # tasks with trials, the nearest ones; a learned model takes the cube of their trials
SHOWN = 5  # stored tasks that are named as evidence
COVERAGE = 0.8  # of the interval
VALIDATION_OF_TRAINING = 0.25  # images that chose the epoch, for each that was learned from
TRAINING_SHARE = 1 / (1 + VALIDATION_OF_TRAINING)


@dataclasses.dataclass(frozen=True)
class Candidate:
    """A configuration with what is expected of it.

    Attributes:
        config: The configuration.
        predicted: Expected top-1 accuracy, in [0, 1].
        std: Standard deviation of what a trial would score; NaN where the recommender does not know.
        parameters: Trainable parameters beside the classifier's.
        seconds: Expected training time on the machine that made the trials, for as many images as the target has.
    """

    config: AdapterConfig
    predicted: float
    std: float
    parameters: int
    seconds: float

    @property
    def interval(self) -> tuple[float, float]:
        """Where a trial is expected to score with a chance of 80%; NaN without `std`."""
        if not np.isfinite(self.std):
            return np.nan, np.nan
        width = float(norm.ppf(0.5 + COVERAGE / 2)) * self.std
        return max(0.0, self.predicted - width), min(1.0, self.predicted + width)


@dataclasses.dataclass(frozen=True)
class Evidence:
    """A stored task near the target, and what worked there.

    Attributes:
        task: Its name.
        distance: How far it is from the target.
        score: What the recommended configuration scored there; None if it was not tried.
        best: The configuration that scored best there.
        best_score: Its score.
    """

    task: str
    distance: float
    score: float | None
    best: AdapterConfig
    best_score: float


@dataclasses.dataclass(frozen=True)
class Recommendation:
    """Configurations ranked for a target task.

    Attributes:
        config: What to tune; after trials on the target, what to try next.
        ranking: All candidates, best first.
        evidence: The nearest stored tasks with trials, nearest first.
        recommender: Which one of `selection.RECOMMENDERS` it comes from.
        warm_start: A tuned adapter of the same configuration to start from, where that is expected to help.
        note: What to know about where the evidence comes from; empty if nothing.
        within: How far below the best expectation `config` was allowed to be; None if it had to be the best.
    """

    config: AdapterConfig
    ranking: tuple[Candidate, ...]
    evidence: tuple[Evidence, ...]
    recommender: str
    warm_start: Path | None = None
    note: str = ""
    within: float | None = None

    @property
    def candidate(self) -> Candidate:
        """The recommended configuration with what is expected of it."""
        return next(c for c in self.ranking if c.config == self.config)

    @property
    def predicted(self) -> float:
        """Its expected top-1 accuracy, in [0, 1]."""
        return self.candidate.predicted

    @property
    def std(self) -> float:
        """Standard deviation of what a trial of it would score."""
        return self.candidate.std

    def explain(self) -> str:
        """Why this configuration, in a paragraph."""
        chosen = self.candidate
        text = f"Tune {chosen.config.label} ({chosen.parameters:,} parameters, about {chosen.seconds:.0f} s)."
        if self.is_calibrated:
            low, high = chosen.interval
            text += f" It is expected to reach {chosen.predicted:.1%}, and with a chance of 80% between {low:.1%} "
            text += f"and {high:.1%}."
        others = [c for c in self.ranking if c.config != self.config]
        if self.within is not None:
            best = self.ranking[0]
            text += f" It is the cheapest expected within {100 * self.within:g} points of the best"
            text += "." if best.config == self.config else f", {best.config.label} ({best.seconds:.0f} s)."
        elif others:
            text += f" Next best of {len(self.ranking)} candidates is {others[0].config.label}"
            text += (
                f", {100 * abs(chosen.predicted - others[0].predicted):.1f} points away." if self.is_calibrated else "."
            )
        near = [
            f"{e.task} (distance {e.distance:.2f}, best there {e.best.label} with {e.best_score:.1%})"
            for e in self.evidence[:3]
        ]
        text += f" The nearest tasks with trials are {'; '.join(near)}."
        if self.warm_start is not None:
            text += f" Start from the adapter in {self.warm_start}, which was tuned on a task close to this one."
        return text + (f" Note: {self.note}." if self.note else "")

    @property
    def is_calibrated(self) -> bool:
        """Whether predictions are accuracies with a spread that was measured, and not only an order: the recommender
        gives one, and the trials it rests on used the backbone asked for.
        """
        return bool(np.isfinite(self.candidate.std)) and not self.note


def recommend(
    embedding: TaskEmbedding,
    store: TaskStore,
    backbone: str | nn.Module = adapters.DEFAULT_BACKBONE,
    *,
    recommender: str = DEFAULT_RECOMMENDER,
    trials: Sequence[Trial] = (),
    max_params: int | None = None,
    max_seconds: float | None = None,
    mergeable_only: bool = False,
    methods: Sequence[str] | None = None,
    without_methods: Sequence[str] = (),
    exclude: Sequence[str] = (),
    within: float | None = None,
    cost: Literal["seconds", "parameters"] = "seconds",
) -> Recommendation:
    """Rank the configurations that were tried on stored tasks, for a target task.

    Args:
        embedding: The target.
        store: Where tasks and their trials are kept; `selection.load_library()` is shipped with the package.
        backbone: What will be tuned. Trials on it are preferred; without any, those on other backbones are used, and
            `note` says so.
        recommender: One of `selection.RECOMMENDERS`.
        trials: Results on the target itself so far. Their validation accuracies update the expectations, and the
            answer is what to try next.
        max_params: Leave out configurations with more trainable parameters than this (classifier not counted).
        max_seconds: Leave out configurations whose expected training time is longer.
        mergeable_only: Leave out methods that cannot become a plain model.
        methods: Only these.
        without_methods: Not these.
        exclude: Names of stored tasks to leave out.
        within: Recommend the cheapest configuration that is expected to reach the best one's accuracy less this, such
            as 0.01, instead of the best one.
        cost: What makes a configuration cheap: expected seconds of training, or trainable parameters.

    Raises:
        RecommendationError: no stored task has trials that fit the backbone and the limits, a name is unknown, `within`
            is negative, or the recommender expects no accuracies.
        StoreError: no stored task was embedded by the same probe and estimator.
    """
    if within is not None and within < 0:
        raise RecommendationError(f"within={within} asks for more than the best; give a share of accuracy such as 0.01")
    if cost not in ("seconds", "parameters"):
        raise RecommendationError(f"there is no cost {cost!r}; choose seconds or parameters")
    if recommender not in RECOMMENDERS:
        raise RecommendationError(
            f"there is no recommender {recommender!r}; choose from {', '.join(sorted(RECOMMENDERS))}"
        )
    limits = Limits(max_params, max_seconds, mergeable_only, methods, tuple(without_methods))
    name = BackboneId.of_name(backbone) if isinstance(backbone, str) else BackboneId.of_model(backbone)
    near = _nearest_with_trials(embedding, store, exclude)
    table, note = _table(near, backbone, name)
    if not table.tasks:
        raise RecommendationError(
            f"{store.location} has no trials that fit {name}; tune configurations on stored tasks and add them"
        )
    seconds = table.seconds * training_images(embedding)
    kept = limits.keep(table, seconds, already=[trial.config for trial in trials])
    candidates = [table.configs[c] for c in kept]
    target = TaskFacts(embedding.task or "target", embedding)
    prediction = RECOMMENDERS[recommender](table, target, candidates)
    if note:
        prediction, note = _with_published(prediction, candidates, str(name), note)
    seen = _observations(trials, candidates)
    if len(seen) >= len(candidates):
        raise RecommendationError(f"all {len(candidates)} candidates were tried; the best one is the answer")
    after = prediction.given(seen)
    ranking = _ranking(after, table, kept, seconds)
    if within is None:
        chosen = candidates[prediction.next_try(seen)]
    elif prediction.covariance is None:
        raise RecommendationError(f"{recommender} expects no accuracies, only an order; leave within={within} out")
    else:
        chosen = cheapest_within(ranking, within, cost).config
    return Recommendation(
        config=chosen,
        ranking=ranking,
        evidence=tuple(_evidence(table, near, chosen)[:SHOWN]),
        recommender=recommender,
        warm_start=_warm_start(embedding, store, near, chosen, name),
        note=note,
        within=within,
    )


def cheapest_within(ranking: Sequence[Candidate], within: float, cost: Literal["seconds", "parameters"]) -> Candidate:
    """The cheapest of the candidates that are expected within so much accuracy of the best; the better one of
    equals.
    """
    best = max(candidate.predicted for candidate in ranking)
    enough = [candidate for candidate in ranking if candidate.predicted >= best - within]
    return min(enough, key=lambda candidate: (getattr(candidate, cost), -candidate.predicted))


@dataclasses.dataclass(frozen=True)
class Limits:
    """What a configuration must keep to; the fields are those of `recommend`."""

    max_params: int | None = None
    max_seconds: float | None = None
    mergeable_only: bool = False
    methods: Sequence[str] | None = None
    without_methods: tuple[str, ...] = ()

    def keep(self, table: TrialTable, seconds: np.ndarray, already: Sequence[AdapterConfig] = ()) -> list[int]:
        """The numbers of the configurations within the limits, or `already` tried.

        Raises:
            RecommendationError: a method is unknown, or nothing is left.
        """
        unknown = [name for name in (*(self.methods or ()), *self.without_methods) if name not in METHODS]
        if unknown:
            raise RecommendationError(f"there is no method {unknown[0]!r}; choose from {', '.join(sorted(METHODS))}")
        allowed = [
            c
            for c, config in enumerate(table.configs)
            if (self.methods is None or config.method in self.methods)
            and config.method not in self.without_methods
            and not (self.mergeable_only and METHODS[config.method].cannot_merge)
        ]
        within = [
            c
            for c in allowed
            if table.configs[c] in already
            or (
                (self.max_params is None or table.parameters[c] <= self.max_params)
                and (self.max_seconds is None or seconds[c] <= self.max_seconds)
            )
        ]
        if not allowed:
            known = ", ".join(sorted({config.method for config in table.configs}))
            raise RecommendationError(f"no allowed method has trials here; there are trials of {known}")
        if not within:
            raise RecommendationError(
                f"no configuration keeps to max_params={self.max_params} and max_seconds={self.max_seconds}; the "
                f"smallest has {min(table.parameters[c] for c in allowed)} parameters and the quickest takes about "
                f"{min(seconds[c] for c in allowed):.0f} s"
            )
        return within


@dataclasses.dataclass(frozen=True)
class _Near:
    """A stored task with its distance to the target."""

    task: StoredTask
    embedding: TaskEmbedding
    distance: float


def _nearest_with_trials(embedding: TaskEmbedding, store: TaskStore, exclude: Sequence[str]) -> list[_Near]:
    """The nearest tasks that have trials, nearest first."""
    tried = {task.name: task for task in store.tasks(with_trials=True)}
    found = store.nearest(embedding, CONSIDERED, where=lambda task: task.name in tried, exclude=exclude)
    return [_Near(tried[n.name], n.embedding, n.distance) for n in found]


def _table(near: list[_Near], backbone: str | nn.Module, name: BackboneId) -> tuple[TrialTable, str]:
    """Trials on the backbone or, where there are none, on others; with a note if so."""
    tasks = [(n.task, n.embedding) for n in near]
    table = table_of(tasks, lambda trial: trial.backbone.is_same(name))
    if table.tasks:
        return table, ""
    if isinstance(backbone, str) and not timm.is_model(backbone):
        raise RecommendationError(f"timm knows no model {backbone!r}; timm.list_models() names those it has")
    table = table_of(tasks, lambda trial: trial.config.blocks is None)
    counts = [parameters_on(backbone, config) for config in table.configs]
    table = table.of_configs([c for c, count in enumerate(counts) if count is not None])
    own = np.array([count for count in counts if count is not None], np.int64)
    others = sorted({str(t.backbone) for n in near for t in n.task.trials})
    return dataclasses.replace(table, parameters=own), (
        f"no stored trial used {name}: the ranking rests on {', '.join(others)}, "
        "so trust its order more than its accuracies"
    )


def _with_published(
    prediction: Prediction, candidates: Sequence[AdapterConfig], backbone: str, note: str
) -> tuple[Prediction, str]:
    """With each method's mean moved to what was published for the backbone, where something was.

    Trials on another backbone say which configuration of a method suits the task; which method suits the backbone is
    known better from others who measured on it.
    """
    gains = published_gains(backbone)
    known = [i for i, config in enumerate(candidates) if config.method in gains]
    if not known or prediction.covariance is None:
        return prediction, note
    mean = prediction.mean.copy()
    methods = {candidates[i].method for i in known}
    centre = float(np.mean([gains[method] for method in methods]))
    for method in methods:
        own = [i for i in known if candidates[i].method == method]
        mean[own] += prediction.mean[known].mean() - prediction.mean[own].mean() + gains[method] - centre
    moved = dataclasses.replace(prediction, mean=mean)
    return moved, f"{note}; the order of the methods is that published for it on {' and '.join(RESULTS)}"


def _observations(trials: Sequence[Trial], candidates: list[AdapterConfig]) -> list[tuple[int, float, float]]:
    """Which candidates were tried on the target, their validation accuracies, and the variances of these as estimates.

    A candidate that was tried with several seeds counts once, with its mean: all its trials share their images.
    """
    by_number: dict[int, list[Trial]] = defaultdict(list)
    for trial in trials:
        if trial.config in candidates:
            by_number[candidates.index(trial.config)].append(trial)
    found = []
    for number, own in by_number.items():
        accuracy = float(np.mean([trial.validation for trial in own]))
        images = max(1.0, VALIDATION_OF_TRAINING * own[0].num_images)
        found.append((number, accuracy, validation_variance(accuracy, images)))
    return found


def training_images(embedding: TaskEmbedding) -> float:
    """How many images of a task will be learned from: all of its images, not only those embedded, less validation."""
    return TRAINING_SHARE * embedding.num_images


def validation_variance(accuracy: float, num_images: float) -> float:
    """Variance of an accuracy on so many images, for the accuracy that two more images, one right, would leave."""
    shrunk = (accuracy * num_images + 1) / (num_images + 2)
    return float(shrunk * (1 - shrunk) / num_images)


def _ranking(prediction: Prediction, table: TrialTable, kept: list[int], seconds: np.ndarray) -> tuple[Candidate, ...]:
    found = [
        Candidate(
            table.configs[c],
            float(prediction.mean[i]),
            float(prediction.std[i]),
            int(table.parameters[c]),
            float(seconds[c]),
        )
        for i, c in enumerate(kept)
    ]
    return tuple(sorted(found, key=lambda c: (-c.predicted, c.parameters, c.config.label)))


def _evidence(table: TrialTable, near: list[_Near], chosen: AdapterConfig) -> list[Evidence]:
    distances = {n.task.name: n.distance for n in near}
    found = []
    for t, task in enumerate(table.tasks):
        best = int(np.nanargmax(table.scores[t]))
        score = table.scores[t, table.configs.index(chosen)]
        found.append(
            Evidence(
                task.name,
                distances[task.name],
                float(score) if np.isfinite(score) else None,
                table.configs[best],
                float(table.scores[t, best]),
            )
        )
    return sorted(found, key=lambda e: e.distance)


def _warm_start(
    embedding: TaskEmbedding, store: TaskStore, near: list[_Near], config: AdapterConfig, name: BackboneId
) -> Path | None:
    """An adapter of the same method and sizes on this backbone, of the task with the smallest asymmetric distance; none
    if that distance promises no gain.
    """
    fitting: dict[str, Path] = {}
    for n in near:
        path = n.task.adapter
        if path is None:
            continue
        metadata = adapters.read_metadata(path)
        own = BackboneId.of_name(metadata["backbone"], metadata["backbone_fingerprint"])
        if own.is_same(name) and _same_tensors(AdapterConfig.from_dict(metadata["config"]), config):
            fitting[n.task.name] = path
    if not fitting:
        return None
    best = store.nearest(embedding, 1, distance="asymmetric", where=lambda task: task.name in fitting)
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
    """Whether two configurations differ in how they are trained only."""
    training = {"learning_rate": None, "weight_decay": None, "epochs": None}
    return {**a.to_dict(), **training} == {**b.to_dict(), **training}
