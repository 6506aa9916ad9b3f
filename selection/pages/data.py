"""What the atlas shows of a store, as plain typed data.

Everything that depends on a choice of the reader (the backbone whose trials count, the colours) is left to the page.
"""

from __future__ import annotations

import base64
import dataclasses
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from adapters import BackboneId
from selection.errors import RecommendationError, StoreError
from selection.pages.layout import Layout, place
from selection.pages.matrix import Ordered, ordered
from selection.recommendation.recommend import recommend
from selection.recommendation.recommenders.features import reference_of
from selection.recommendation.result import Recommendation
from selection.store import BackboneFacts, StoredTask, TaskStore, Trial
from task2vec import TaskEmbedding, Thumbnail, distance_matrix
from task2vec.embedding import of_commonest_kind
from task2vec.progress import reporting

Array = npt.NDArray[np.float64]

NEAREST = 8  # tasks that a card names
COMPARED = 5000  # with more tasks, cards name no nearest tasks, no classes and no Fisher
MATRIX = 300  # tasks of which the distance matrix is shown
PICTURED = 2_000_000  # bytes of pictures in a page; with more, every card shows fewer of its own
ADVISED = 100  # with more tasks that have trials, only the target gets a recommendation


@dataclasses.dataclass(frozen=True)
class TrialSummary:
    """What one configuration reached on a task with one backbone, means over its seeds.

    Attributes:
        config: Its label.
        method: Its method.
        backbone: The backbone's name.
        score: Test accuracy, in [0, 1].
        parameters: Trainable ones beside the classifier's.
        seconds: Of training.
        seeds: How many trials these are.
    """

    config: str
    method: str
    backbone: str
    score: float
    parameters: int
    seconds: float
    seeds: int


@dataclasses.dataclass(frozen=True)
class AtlasTask:
    """A task as the atlas shows it.

    Attributes:
        name: Its name; for the target, what it is called.
        source: Where its images come from.
        tags: Its groups.
        num_classes: How many classes it has.
        classes: Their names; empty where there are too many tasks to write them all.
        num_images: Images it was embedded from.
        accuracy: Of a linear classifier on the probe's features, cross-validated where that was done.
        position: On the map.
        nearest: The nearest other tasks, as their numbers with their distances to this one.
        results: What was tuned on it.
        probes: For each backbone, the accuracy of a linear probe on its features, where somebody looked.
        fisher: For each layer of the probe the base-10 logarithm of the filters' mean Fisher; None where it is 0.
        advice: What is recommended for it without it and all tasks of its source; None where that was not computed.
        pictures: Labels of some of its images with the images as data URLs, where the store has thumbnails.
    """

    name: str
    source: str
    tags: tuple[str, ...]
    num_classes: int
    classes: tuple[str, ...]
    num_images: int
    accuracy: float
    position: tuple[float, float]
    nearest: tuple[tuple[int, float], ...]
    results: tuple[TrialSummary, ...]
    probes: dict[str, float]
    fisher: tuple[float | None, ...]
    advice: dict[str, Any] | None
    pictures: tuple[tuple[str, str], ...] = ()


@dataclasses.dataclass(frozen=True)
class Atlas:
    """All that the page shows.

    Attributes:
        title: Its heading.
        distance: By which distance tasks are compared.
        probe: What embedded them.
        method: The estimator.
        left_out: Stored tasks without such an embedding.
        layers: The probe's layers.
        backbones: Those that trials were made with, the one with most trials, or the one asked for, first.
        layout: The map's positions and how faithful they are.
        tasks: The tasks; the target is the last.
        target: The target's number; None without one.
        matrix: The distance matrix, of a sample where there are many tasks.
        matrix_tasks: Which tasks it is about.
    """

    title: str
    distance: str
    probe: str
    method: str
    left_out: int
    layers: tuple[str, ...]
    backbones: tuple[str, ...]
    layout: Layout
    tasks: tuple[AtlasTask, ...]
    target: int | None
    matrix: Ordered
    matrix_tasks: tuple[int, ...]


def gather(
    store: TaskStore,
    *,
    target: TaskEmbedding | None = None,
    advice: dict[str, Any] | None = None,
    distance: str = "log_cosine",
    backbone: str | None = None,
    names: Sequence[str] | None = None,
    advise: bool | None = None,
    map_by: str = "mds",
    thumbnails: bool = True,
    progress: bool = False,
    title: str = "Atlas of tasks",
) -> Atlas:
    """Read everything from a store.

    Args:
        store: The store.
        target: A task to show among the stored ones.
        advice: What is recommended for it (`told_of`); computed if not given.
        distance: One of `task2vec.DISTANCES`.
        backbone: Whose trials are shown first, and what recommendations are for; that with most trials if not given.
        names: Only these stored tasks.
        advise: Recommend for stored tasks as well; where at most `ADVISED` of them have trials, if None.
        map_by: How tasks are placed on the map: one of `MAPS`.
        thumbnails: Show pictures of the images of tasks that have some.
        progress: Show progress on standard error.
        title: The page's heading.

    Raises:
        StoreError: there is nothing to show, or no trial used the backbone.
        DistanceError: there is no such distance.
        SelectionError: there is no such map.
    """
    embeddings = [e for e in _of_one_kind(store, target) if names is None or e.task in names]
    if not embeddings:
        of_same = "" if target is None else f" by the same probe, estimator and layers as {target.task or 'the target'}"
        raise StoreError(f"{store.location} has no tasks embedded{of_same} to show; add some with task2vec store add")
    stored = {task.name: task for task in store.tasks()}
    embeddings = [e for e in embeddings if e.task in stored]  # unless it was removed in the meantime
    shown = embeddings if target is None else [*embeddings, target]
    backbones = _backbones(store, [stored[e.task] for e in embeddings], backbone)
    names_of = {own: name for name, own in backbones.items()}
    first = next(iter(backbones), None)
    between = Distances(shown, distance)
    everyone = list(range(len(shown)))
    sample = everyone
    if len(shown) > MATRIX:
        sample = sorted(np.random.default_rng(0).choice(len(shown), MATRIX, replace=False).tolist())
    layout = place(between, len(shown), map_by)
    few = len(shown) <= COMPARED
    nearest = _nearest(between(everyone, everyone)) if few else [()] * len(shown)
    pictures = _pictures(store, shown, target) if thumbnails else [()] * len(shown)
    tasks = []
    advised = sum(bool(stored[e.task].trials) for e in embeddings) <= ADVISED if advise is None else advise
    with reporting(progress and advised) as report:
        for number, embedding in enumerate(shown):
            report("Recommending for every task", number + 1, len(shown))
            is_target = target is not None and number == len(embeddings)
            task = None if is_target else stored[embedding.task]
            told = advice if is_target else None
            if told is None and first is not None and (is_target or advised):
                found = _recommended(store, embedding, task, backbones[first], stored)
                told = None if found is None else told_of(found, first)
            position = float(layout.points[number, 0]), float(layout.points[number, 1])
            seen = _shown(embedding, task, names_of, position, nearest[number], told, detailed=few)
            tasks.append(dataclasses.replace(seen, pictures=pictures[number]))
    return Atlas(
        title=title,
        distance=distance,
        probe=shown[0].probe_name,
        method=shown[0].method,
        left_out=0 if names is not None else len(stored) - len(embeddings),
        layers=tuple(layer.name for layer in shown[0].layers),
        backbones=tuple(backbones),
        layout=layout,
        tasks=tuple(tasks),
        target=None if target is None else len(embeddings),
        matrix=ordered(between(sample, sample)),
        matrix_tasks=tuple(sample),
    )


class Distances:
    """Distances between some of the embeddings, by their numbers; `log_cosine` with one reference for all."""

    def __init__(self, embeddings: Sequence[TaskEmbedding], name: str) -> None:
        self._embeddings, self._name = embeddings, name
        self._reference = reference_of(embeddings) if name == "log_cosine" else None

    def __call__(self, rows: Sequence[int], columns: Sequence[int]) -> Array:
        """Float64 `(rows, columns)`, from row to column."""
        a, b = ([self._embeddings[i] for i in chosen] for chosen in (rows, columns))
        return np.asarray(distance_matrix(a, self._name, b, reference=self._reference))


def told_of(found: Recommendation, backbone: str) -> dict[str, Any]:
    """A recommendation as the card tells it; accuracies only where their spread was measured."""
    calibrated = found.is_calibrated
    return {
        "backbone": backbone,
        "config": found.config.label,
        "explanation": found.explain(),
        "note": found.note,
        "level": found.level,
        "depths": None if found.facts is None else _depths(found.facts),
        "fisher": None if found.fisher is None else dataclasses.asdict(found.fisher),
        "ranking": [
            {
                "config": c.config.label,
                "predicted": c.accuracy if calibrated else None,
                "interval": list(c.interval) if calibrated else None,
                "parameters": c.parameters,
                "seconds": c.seconds,
            }
            for c in found.ranking[:NEAREST]
        ],
        "candidates": len(found.ranking),
        "evidence": [
            {"task": e.task, "distance": e.distance, "score": e.score, "best": e.best.label, "best_score": e.best_score}
            for e in found.evidence
        ],
    }


def _depths(facts: BackboneFacts) -> dict[str, Any]:
    """What features of each third of the backbone tell apart."""
    return {"averaged": list(facts.by_depth), "in_place": list(facts.in_place), "final": facts.linear_probe}


def _of_one_kind(store: TaskStore, target: TaskEmbedding | None) -> list[TaskEmbedding]:
    """The embeddings by the target's probe and estimator and of its layers, or by those that most tasks have: others do
    not compare.
    """
    if target is None:
        return of_commonest_kind(store.embeddings())
    return [e for e in store.embeddings(target.probe, target.method) if e.kind == target.kind]


def _backbones(store: TaskStore, tasks: Sequence[StoredTask], asked: str | None) -> dict[str, BackboneId]:
    """The trials' backbones by the names that the page gives them, the one asked for or with most trials first."""
    counts = Counter(trial.backbone for task in tasks for trial in task.trials if trial.score is not None)
    ranked = [backbone for backbone, _ in counts.most_common()]
    if asked is not None:
        wanted = BackboneId.of_name(asked)
        if not any(backbone.is_same(wanted) for backbone in ranked):
            known = ", ".join(dict.fromkeys(map(str, ranked))) or "none"
            raise StoreError(f"no trial in {store.location} used {asked}; it has trials on {known}")
        ranked.sort(key=lambda backbone: not backbone.is_same(wanted))
    shared = Counter(map(str, ranked))
    return {_name_of(backbone, shared): backbone for backbone in ranked}


def _name_of(backbone: BackboneId, shared: Counter[str]) -> str:
    """Its name, with the first letters of its fingerprint where other weights share the name."""
    name = str(backbone)
    return name if shared[name] < 2 else f"{name} ({backbone.fingerprint[:8] or 'unknown weights'})"


def _pictures(
    store: TaskStore, shown: Sequence[TaskEmbedding], target: TaskEmbedding | None
) -> list[tuple[tuple[str, str], ...]]:
    """The pictures of each task, of every task as many as leave room for those of the others."""
    pictured = store.pictured()
    found = [e.thumbnails if e is target else store.thumbnails(e.task) if e.task in pictured else () for e in shown]
    most = max(map(len, found), default=0)
    while sum(len(t.webp) for own in found for t in own[:most]) > PICTURED:
        most -= 1
    return [tuple((t.label, _data_url(t)) for t in own[:most]) for own in found]


def _data_url(thumbnail: Thumbnail) -> str:
    return f"data:image/webp;base64,{base64.b64encode(thumbnail.webp).decode()}"


def _nearest(distances: Array) -> list[tuple[tuple[int, float], ...]]:
    """For each task the others, by their distance to it."""
    own = distances.copy()
    np.fill_diagonal(own, np.inf)
    order = np.argsort(own, axis=0, kind="stable")[: min(NEAREST, len(own) - 1)]
    return [tuple((int(i), float(own[i, task])) for i in order[:, task]) for task in range(len(own))]


def _recommended(
    store: TaskStore,
    embedding: TaskEmbedding,
    task: StoredTask | None,
    backbone: BackboneId,
    stored: dict[str, StoredTask],
) -> Recommendation | None:
    """For a stored task as if it and its source were unknown; nothing without other evidence."""
    left_out: list[str] = []
    facts = None
    if task is not None:
        left_out = [
            other.name for other in stored.values() if (other.source or other.name) == (task.source or task.name)
        ]
        facts = next((found for found in task.facts if found.backbone.is_same(backbone)), None)
    try:
        return recommend(embedding, store, str(backbone), facts=facts, exclude=left_out)
    except (RecommendationError, StoreError):
        return None


def _shown(
    embedding: TaskEmbedding,
    task: StoredTask | None,
    names_of: Mapping[BackboneId, str],
    position: tuple[float, float],
    nearest: tuple[tuple[int, float], ...],
    advice: dict[str, Any] | None,
    *,
    detailed: bool,
) -> AtlasTask:
    classifier = embedding.classifier
    return AtlasTask(
        name=embedding.task or "target",
        source="" if task is None else task.source or task.name,
        tags=() if task is None else task.tags,
        num_classes=len(embedding.classes),
        classes=embedding.classes if detailed else (),
        num_images=embedding.num_samples,
        accuracy=classifier.accuracy if classifier.cross_validated is None else classifier.cross_validated,
        position=position,
        nearest=nearest,
        results=() if task is None else _results(task.trials, names_of),
        probes={} if task is None else _probes(task, names_of),
        fisher=_by_layer(embedding) if detailed else (),
        advice=advice,
    )


def _results(trials: Sequence[Trial], names: Mapping[BackboneId, str]) -> tuple[TrialSummary, ...]:
    """Means over the seeds of each configuration; trials without a test score are left out."""
    groups: dict[tuple[str, BackboneId], list[Trial]] = defaultdict(list)
    for trial in trials:
        if trial.score is not None:
            groups[trial.config.label, trial.backbone].append(trial)
    return tuple(
        TrialSummary(
            config=label,
            method=same[0].config.method,
            backbone=names[backbone],
            score=float(np.mean([trial.score for trial in same if trial.score is not None])),
            parameters=same[0].parameters,
            seconds=float(np.mean([trial.seconds for trial in same])),
            seeds=len(same),
        )
        for (label, backbone), same in groups.items()
    )


def _probes(task: StoredTask, names_of: Mapping[BackboneId, str]) -> dict[str, float]:
    """Accuracies of linear probes by the names of the backbones that trials were made with."""
    return {
        name: facts.linear_probe
        for facts in task.facts
        for backbone, name in names_of.items()
        if facts.backbone.is_same(backbone)
    }


def _by_layer(embedding: TaskEmbedding) -> tuple[float | None, ...]:
    ends = np.cumsum([layer.num_filters for layer in embedding.layers])[:-1]
    means = [float(part.mean(dtype=np.float64)) for part in np.split(embedding.fisher, ends)]
    return tuple(float(np.log10(mean)) if mean > 0 else None for mean in means)
