"""The whole way in one call: embed a task, ask the store, tune what it recommends: once, several times, for an hour."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from torch import nn

import adapters
from adapters import AdapterConfig, BackboneId
from selection.errors import RecommendationError, SelectionError
from selection.evidence.backbone import load_backbone
from selection.evidence.library import load_library
from selection.evidence.runner import VALIDATION_SHARE
from selection.recommendation.facts import facts_of
from selection.recommendation.learning_curves import curves_of
from selection.recommendation.recommend import recommend
from selection.recommendation.result import Recommendation
from selection.store import TaskStore, Trial
from selection.tuning.budget import Clock, Watch
from selection.tuning.one import Tuned, check_single_label, tune, write
from task2vec import Probe, Task, TaskEmbedding, embed, load_probe


@dataclasses.dataclass(frozen=True)
class AutoTuned(Tuned):
    """A tuned model with what led to it.

    Attributes:
        embedding: The task's embedding.
        recommendation: The one that named what was tuned.
        trials: Every configuration that was tried, in order; none has a score, as no test images were given.
    """

    embedding: TaskEmbedding
    recommendation: Recommendation
    trials: tuple[Trial, ...]


def auto_tune(
    task: Task,
    backbone: str | nn.Module = adapters.DEFAULT_BACKBONE,
    store: TaskStore | None = None,
    *,
    probe: Probe | None = None,
    tries: int | None = None,
    seconds: float | None = None,
    max_params: int | None = None,
    max_seconds: float | None = None,
    mergeable_only: bool = False,
    methods: Sequence[str] | None = None,
    within: float | None = None,
    out: str | Path | None = None,
    seed: int = 0,
    progress: bool = True,
) -> AutoTuned:
    """Embed a task, recommend a configuration for the backbone, and tune it: once, several times, or for some time.

    Args:
        task: Training images; a fifth of them watches over the training.
        backbone: A timm name, whose pretrained weights are loaded, or a model, which is changed in place; with several
            tries, copies of it.
        store: Where the evidence comes from; the shipped library if not given.
        probe: What the store's tasks were embedded with; the bundled probe if not given.
        tries: How many configurations to tune at most, each chosen in the light of those before; 1 if neither this nor
            `seconds` is given. The best one by the recommender's expectations after all of them is kept.
        seconds: Time to spend on tries, in seconds. The next one has the largest expected improvement a second, and one
            whose learning curve promises nothing is given up. The first one is tuned to its end in any case.
        max_params: See `recommend`.
        max_seconds: See `recommend`.
        mergeable_only: See `recommend`.
        methods: See `recommend`.
        within: See `recommend`; with a single try only.
        out: Directory for the result; with several tries, each try has a directory of its own inside.
        seed: Fixes the split, the drawn labels, the initial weights and the order of the images.
        progress: Show progress bars on standard error.

    Raises:
        SelectionError: there is no try, no time, `within` with several tries, or an image has several labels.
        Task2VecError, RecommendationError, StoreError, AdapterError: see `embed`, `recommend` and `adapters.fit`.
    """
    check_single_label(task)
    several = seconds is not None or (tries or 1) > 1
    if tries is not None and tries < 1:
        raise SelectionError(f"tries={tries} tunes nothing; give at least 1")
    if seconds is not None and seconds <= 0:
        raise SelectionError(f"seconds={seconds} leaves no time; give more than 0")
    if within is not None and several:
        raise SelectionError(f"within={within} names one configuration; leave it out where several are tried")
    evidence = store if store is not None else load_library()
    embedding = embed(task, probe or load_probe(), seed=seed, progress=progress)
    model = load_backbone(backbone)
    facts = facts_of(task, model)
    curves = curves_of(evidence, facts.backbone)
    clock = Clock(seconds)
    trials: list[Trial] = []
    finished: list[tuple[Recommendation, Tuned]] = []

    def ask(limit: float | None) -> Recommendation:
        return recommend(
            embedding,
            evidence,
            model,
            facts=facts,
            trials=trials,
            max_params=max_params,
            max_seconds=limit,
            mergeable_only=mergeable_only,
            methods=methods,
            within=within,
            by_time=seconds is not None,
        )

    while not trials or (len(trials) < (tries or np.inf) and clock.left > 0):
        try:
            recommendation = ask(clock.limit(max_seconds) if finished else max_seconds)
        except RecommendationError:
            if not finished:
                raise
            break  # everything was tried, or nothing else fits into the time
        number = len(trials) + 1
        watch = Watch(curves, recommendation.config, _best_validation(finished), clock if finished else None)
        tuned = tune(
            task,
            copy.deepcopy(model) if several else model,
            recommendation.config,
            init_from=recommendation.warm_start,
            out=None if out is None else Path(out) / f"try-{number}" if several else Path(out),
            seed=seed,
            on_epoch=watch if several else None,
            progress=progress,
        )
        trials.append(_trial_of(tuned, recommendation.config, seed, len(task)))
        clock.learn(recommendation.candidate.seconds, watch.whole_seconds or tuned.fit.seconds)
        if not watch.gave_up:
            finished.append((recommendation, tuned))
        if len(trials) == len(recommendation.ranking):
            break
    recommendation, best = finished[_best_of(finished, trials, ask)]
    if out is not None and several:
        write(best, Path(out), task.class_names)
    return AutoTuned(**vars(best), embedding=embedding, recommendation=recommendation, trials=tuple(trials))


def _best_validation(finished: Sequence[tuple[Recommendation, Tuned]]) -> float | None:
    return max((tuned.fit.best.accuracy for _, tuned in finished), default=None)


def _best_of(
    finished: Sequence[tuple[Recommendation, Tuned]],
    trials: Sequence[Trial],
    ask: Callable[[float | None], Recommendation],
) -> int:
    """Which of the finished tries is expected to be the best, what was seen on all of them considered."""
    if len(finished) == 1:
        return 0
    first = finished[0][0]
    if len(trials) == len(first.ranking) or not first.is_calibrated:
        return max(range(len(finished)), key=lambda i: finished[i][1].fit.best.accuracy)
    expected = {candidate.config: candidate.predicted for candidate in ask(None).ranking}
    return max(range(len(finished)), key=lambda i: expected[finished[i][0].config])


def _trial_of(tuned: Tuned, config: AdapterConfig, seed: int, num_images: int) -> Trial:
    return Trial(
        config=config,
        backbone=BackboneId.of_model(tuned.model),
        score=None,
        validation=tuned.fit.best.accuracy,
        parameters=adapters.num_adapter_parameters(tuned.model),
        seconds=tuned.fit.seconds,
        seed=seed,
        num_images=round((1 - VALIDATION_SHARE) * num_images),
        curve=tuned.fit.curve,
    )
