"""Which adapter to tune on a new task, from what worked on the stored tasks."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Literal

import numpy as np
import numpy.typing as npt
import timm
import torch
from torch import nn

import adapters
from adapters import AdapterConfig, BackboneId
from selection.errors import RecommendationError
from selection.evidence.published import RESULTS
from selection.evidence.space import parameters_on
from selection.evidence.table import TaskFacts, TrialTable, on_equal_terms, table_of
from selection.recommendation.fisher_by_block import FisherByBlock, fisher_by_block
from selection.recommendation.learning_curves import curves_of
from selection.recommendation.limits import Limits
from selection.recommendation.observed import observations, training_images
from selection.recommendation.prediction import Prediction, believed
from selection.recommendation.published_prior import with_published
from selection.recommendation.recommenders import RECOMMENDERS
from selection.recommendation.result import Candidate, Evidence, Recommendation
from selection.recommendation.warm_start import warm_start
from selection.store import BackboneFacts, StoredTask, TaskFilter, TaskStore, Trial
from task2vec import TaskEmbedding
from task2vec.weights import is_known

DEFAULT_RECOMMENDER = "gaussian_process"
CONSIDERED = 150  # tasks with trials, the nearest ones; a learned model takes the cube of their trials
SEVERAL_LABELS = (
    "your images have several labels each, those of the stored trials one: trust the order, not the accuracies"
)
FEW, FEW_OF_CLASS = 20, 2  # images in all, and of a class on average, that a linear probe says nothing with less of
TOO_FEW = "so few images do not say what a linear probe of them reaches: trust the order, not the accuracies"
ALL_FAILED = "all configurations that are allowed failed; allow others"
SHOWN = 5  # stored tasks that are named as evidence
CLOSE = 0.05  # of accuracy, within which a stored task's gain agrees with what is expected, however sure that is


def recommend(
    embedding: TaskEmbedding,
    store: TaskStore,
    backbone: str | nn.Module = adapters.DEFAULT_BACKBONE,
    *,
    facts: BackboneFacts | None = None,
    recommender: str = DEFAULT_RECOMMENDER,
    trials: Sequence[Trial] = (),
    running: Sequence[AdapterConfig] = (),
    failed: Sequence[AdapterConfig] = (),
    max_params: int | None = None,
    max_seconds: float | None = None,
    mergeable_only: bool = False,
    methods: Sequence[str] | None = None,
    without_methods: Sequence[str] = (),
    exclude: Sequence[str] = (),
    within: float | None = None,
    cost: Literal["seconds", "parameters"] = "seconds",
    by_time: bool = False,
) -> Recommendation:
    """Rank the configurations that were tried on stored tasks, for a target task.

    Args:
        embedding: The target.
        store: Where tasks and their trials are kept; `selection.load_library()` is shipped with the package.
        backbone: What will be tuned. Without trials on it, those on the stored backbone of the nearest size are used,
            and `note` says so.
        facts: What the target looks like to the backbone (`selection.facts_of`). Where the stored tasks have such
            facts, too, expectations start from the accuracy of a linear probe of that backbone, and are much narrower.
        recommender: One of `selection.RECOMMENDERS`.
        trials: Results on the target itself so far; those with other backbones are left out. Their validation
            accuracies update the expectations, and the answer is what to try next.
        running: Configurations that are being tried on the target. They are not recommended again, and the next try is
            chosen as if they scored what is expected of them.
        failed: Configurations that cannot be tuned on the target, such as those that do not fit into memory; they are
            left out.
        max_params: Leave out configurations with more trainable parameters than this (classifier not counted).
        max_seconds: Leave out configurations whose expected training time is longer.
        mergeable_only: Leave out methods that cannot become a plain model.
        methods: Only these.
        without_methods: Not these.
        exclude: Names of stored tasks to leave out.
        within: Recommend the cheapest configuration that is as likely as not to reach the best accuracy less this,
            such as 0.01, instead of the one that is expected best.
        cost: What makes a configuration cheap: expected seconds of training, or trainable parameters.
        by_time: After trials on the target, recommend what is expected to improve most a second, instead of in all.

    Raises:
        RecommendationError: no stored task has trials that fit the backbone and the limits, a name is unknown, facts
            are of another backbone or task, `within` is no share of accuracy or given beside `running`, or the
            recommender expects no accuracies.
        StoreError: no stored task was embedded by the same probe and estimator.
    """
    _check(within, cost, recommender, running)
    _check_several(methods=methods, without_methods=without_methods, exclude=exclude)
    limits = Limits(
        max_params, max_seconds, mergeable_only, None if methods is None else tuple(methods), tuple(without_methods)
    )
    asked = BackboneId.of_name(backbone) if isinstance(backbone, str) else BackboneId.of_model(backbone)
    _check_facts(facts, embedding, asked)
    trials = [trial for trial in trials if trial.backbone.is_same(asked)]
    evidence = _evidence_for(embedding, store, backbone, asked, exclude)
    table, target = on_equal_terms(
        evidence.table, TaskFacts(embedding.task or "target", embedding, backbone_facts=facts)
    )
    seconds = table.seconds_on(training_images(embedding))
    kept = limits.keep(table, seconds, already=[*(trial.config for trial in trials), *running])
    kept = [c for c in kept if table.configs[c] not in failed]
    if not kept:
        raise RecommendationError(ALL_FAILED)
    candidates = [table.configs[c] for c in kept]
    prediction = RECOMMENDERS[recommender](table, target, candidates)
    note = evidence.note or _note_on(embedding)
    if prediction.mean.shape != (len(candidates),) or not np.isfinite(prediction.mean).all():
        raise RecommendationError(
            f"recommender {recommender!r} did not give one number for each of {len(candidates)} candidates; mend it, "
            "or choose another"
        )
    published = with_published(prediction, candidates, str(asked)) if evidence.note else None
    if published is not None:
        prediction = published
        note += f"; the order of the methods is that published for it on {' and '.join(RESULTS)}"
    seen = observations(trials, candidates, curves_of(store, asked) if trials else None)
    after = prediction.given(seen)
    tried = seen + believed(after, [candidates.index(one) for one in running if one in candidates])
    if len(tried) >= len(candidates):
        raise RecommendationError(f"all {len(candidates)} candidates were tried; the best one is the answer")
    if within is not None and after.covariance is None:
        raise RecommendationError(f"{recommender} expects no accuracies, only an order; leave within={within} out")
    chance = None
    if within is None:
        chosen = prediction.next_try(tried, seconds[kept] if by_time else None)
    else:
        costs = seconds[kept] if cost == "seconds" else table.parameters[kept].astype(np.float64)
        # What was tried beyond the limits stays among the candidates for what it tells, but cannot be the answer.
        allowed = limits.keep(table, seconds)
        inside = [number for number, c in enumerate(kept) if c in allowed]
        if not inside:
            raise RecommendationError(ALL_FAILED)
        among = after.of(inside)
        number = among.cheapest_within(costs[inside], within)
        chosen, chance = inside[number], None if note else float(among.chances_within(within)[number])
    config, level = candidates[chosen], target.level
    near = _nearest(table, evidence.distances, config)
    if not evidence.note:
        near = tuple(e for e in near if _agrees(e, float(after.mean[chosen]) - level, float(after.std[chosen])))
    return Recommendation(
        config=config,
        ranking=_ranking(after, table, kept, seconds),
        evidence=near[:SHOWN],
        recommender=recommender,
        level=level,
        num_tasks=len(table.tasks),
        warm_start=warm_start(embedding, store, evidence.tasks, config, asked),
        note=note,
        multi_label=embedding.multi_label,
        within=within,
        chance=chance,
        facts=facts,
        starts_from_facts=target.backbone_facts is not None,
        fisher=None if facts is None else _by_block(facts, evidence.table),
        image_size=_image_size(evidence.table),
    )


def _note_on(embedding: TaskEmbedding) -> str:
    """Why nobody knows how accurate the target's trials will be, whatever the evidence; empty if there is no reason."""
    if embedding.multi_label:
        return SEVERAL_LABELS
    return TOO_FEW if embedding.num_images < max(FEW, FEW_OF_CLASS * len(embedding.classes)) else ""


def _check_facts(facts: BackboneFacts | None, embedding: TaskEmbedding, backbone: BackboneId) -> None:
    """Make sure that facts are of the task and of the backbone."""
    if facts is None:
        return
    if not facts.backbone.is_same(backbone):
        raise RecommendationError(
            f"the facts are of {facts.backbone}, and {backbone} will be tuned; give selection.facts_of this backbone"
        )
    if facts.num_classes != len(embedding.classes):
        raise RecommendationError(
            f"the facts are of a task of {facts.num_classes} classes, and the embedding of one of "
            f"{len(embedding.classes)}; give both of the same task"
        )


def _check(within: float | None, cost: str, recommender: str, running: Sequence[AdapterConfig]) -> None:
    if within is not None and not 0 <= within <= 1:
        raise RecommendationError(f"within={within} is no share of accuracy in [0, 1]; give one such as 0.01")
    if within is not None and running:
        raise RecommendationError(f"within={within} names the answer, and running= asks what else to try; give one")
    if cost not in ("seconds", "parameters"):
        raise RecommendationError(f"there is no cost {cost!r}; choose seconds or parameters")
    if recommender not in RECOMMENDERS:
        raise RecommendationError(
            f"there is no recommender {recommender!r}; choose from {', '.join(sorted(RECOMMENDERS))}"
        )


def _check_several(**given: Sequence[str] | None) -> None:
    for name, names in given.items():
        if isinstance(names, str):  # whose letters would be taken for names
            raise RecommendationError(f"{name}={names!r} must be several names; give [{names!r}]")


@dataclasses.dataclass(frozen=True)
class _StoredTrials:
    """Stored tasks with trials that say something about a backbone.

    Attributes:
        tasks: The tasks.
        distances: From each to the target, by name.
        table: Their trials.
        note: What to know about them; empty if they are on the very backbone.
    """

    tasks: tuple[StoredTask, ...]
    distances: dict[str, float]
    table: TrialTable
    note: str = ""


def _evidence_for(
    embedding: TaskEmbedding, store: TaskStore, backbone: str | nn.Module, asked: BackboneId, exclude: Sequence[str]
) -> _StoredTrials:
    """The nearest stored tasks with trials on the backbone or, where there are none, on another one.

    Raises:
        RecommendationError: there are no trials that fit.
    """
    found = _nearest_with_trials(embedding, store, TaskFilter(exclude=exclude, trials_on=asked.architecture), asked)
    if found.table.tasks:
        return found
    if isinstance(backbone, str) and not is_known(backbone):
        raise RecommendationError(f"timm knows no model {backbone!r}; timm.list_models() names those it has")
    known = store.backbones()
    if known:
        other = min(known, key=lambda one: _size_apart(backbone, one))
        found = _nearest_with_trials(embedding, store, TaskFilter(exclude=exclude, trials_on=other.architecture), other)
        table = found.table.of_configs([c for c, config in enumerate(found.table.configs) if config.blocks is None])
        counts = [parameters_on(backbone, config) for config in table.configs]
        table = table.of_configs([c for c, count in enumerate(counts) if count is not None])
        own = np.array([count for count in counts if count is not None], np.int64)
        if len(own):
            others = f"{other} with other weights" if str(other) == str(asked) else str(other)
            note = (
                f"no stored trial used {asked}: the ranking rests on {others}, so trust its order, not its accuracies"
            )
            return dataclasses.replace(found, table=dataclasses.replace(table, parameters=own), note=note)
    raise RecommendationError(
        f"{store.location} has no trials that fit {asked}; tune configurations on stored tasks and add them"
    )


def _nearest_with_trials(
    embedding: TaskEmbedding, store: TaskStore, which: TaskFilter, backbone: BackboneId
) -> _StoredTrials:
    near = {n.name: n for n in store.nearest(embedding, CONSIDERED, which=which)}
    tasks = {task.name: task for task in store.tasks(TaskFilter(names=list(near)))}
    ordered = [(tasks[name], n.embedding) for name, n in near.items() if name in tasks]
    return _StoredTrials(
        tasks=tuple(task for task, _ in ordered),
        distances={name: n.distance for name, n in near.items()},
        table=table_of(ordered, lambda trial: trial.backbone.is_same(backbone)),
    )


def _size_apart(backbone: str | nn.Module, other: BackboneId) -> float:
    """By what factor the number of weights differs, as a logarithm; infinite where it is not known."""
    if not timm.is_model(other.architecture):
        return np.inf
    with torch.device("meta"):
        counts = [
            sum(p.numel() for p in (timm.create_model(m) if isinstance(m, str) else m).parameters())
            for m in (backbone, other.architecture)
        ]
    return float(abs(np.log(counts[0] / counts[1])))


def _ranking(
    prediction: Prediction, table: TrialTable, kept: Sequence[int], seconds: npt.NDArray[np.float64]
) -> tuple[Candidate, ...]:
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


def _by_block(facts: BackboneFacts, table: TrialTable) -> FisherByBlock | None:
    return fisher_by_block(facts, [task.backbone_facts for task in table.tasks if task.backbone_facts is not None])


def _image_size(table: TrialTable) -> tuple[int, int, int] | None:
    """As the backbone took the images of all tasks, if that is one size and known."""
    sizes = {None if task.backbone_facts is None else task.backbone_facts.image_size for task in table.tasks}
    return sizes.pop() if len(sizes) == 1 else None


def _agrees(evidence: Evidence, gain: float, std: float) -> bool:
    """Whether what a configuration gained on a stored task is about what it is expected to gain on the target: within a
    standard deviation of it, or `CLOSE`, since repeats of one training differ as well.

    Where it was not tried, what the best one gained stands for it.

    A task may be near because its images are alike while its labels ask something else. Then the same configuration
    gains there what it does not gain here, and to show the task as a reason would mislead.
    """
    if not np.isfinite(std):
        return True
    score = evidence.best_score if evidence.score is None else evidence.score
    return abs(score - evidence.level - gain) <= max(std, CLOSE)


def _nearest(table: TrialTable, distances: dict[str, float], chosen: AdapterConfig) -> tuple[Evidence, ...]:
    """What worked on the stored tasks, nearest first."""
    column = table.configs.index(chosen)
    found = []
    for task, scores in zip(table.tasks, table.scores, strict=True):
        if not np.isfinite(scores).any():
            continue
        best, own = int(np.nanargmax(scores)), float(scores[column])
        found.append(
            Evidence(
                task.name,
                distances[task.name],
                own if np.isfinite(own) else None,
                table.configs[best],
                float(scores[best]),
                task.level,
            )
        )
    return tuple(sorted(found, key=lambda evidence: evidence.distance))
