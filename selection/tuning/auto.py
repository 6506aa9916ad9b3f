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
from adapters.data import transform_of
from adapters.losses import LossName, Sampling
from selection.errors import RecommendationError, SelectionError
from selection.evidence.backbone import load_backbone
from selection.evidence.library import load_library
from selection.evidence.runner import VALIDATION_SHARE
from selection.recommendation.facts import facts_of
from selection.recommendation.learning_curves import curves_of
from selection.recommendation.pace import slowness_of, timed
from selection.recommendation.recommend import recommend
from selection.recommendation.result import Recommendation
from selection.results.lock import alone_in
from selection.store import TaskStore, Trial
from selection.tuning.budget import Clock, Watch
from selection.tuning.one import Tuned, decoded, splits_of, tune_alone, write
from task2vec import Compute, Probe, Splits, Task, TaskEmbedding, embed, load_probe


@dataclasses.dataclass(frozen=True, kw_only=True)
class AutoTuned(Tuned):
    """A tuned model with what led to it.

    Attributes:
        embedding: The task's embedding.
        recommendation: The one that named what was tuned.
        trials: Every configuration that was tried, in order; with a score if there were test images.
    """

    embedding: TaskEmbedding
    recommendation: Recommendation
    trials: tuple[Trial, ...]


def auto_tune(
    task: Task | Splits | str | Path,
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
    compute: Compute | None = None,
    out: str | Path | None = None,
    loss: LossName = "auto",
    sampling: Sampling = "uniform",
    log: str | None = None,
    seed: int = 0,
    progress: bool = True,
) -> AutoTuned:
    """Embed a task, recommend a configuration for the backbone, and tune it: once, several times, or for some time.

    Args:
        task: Training images, of which a fifth watches over the training; all splits (`task2vec.read_splits`), whose
            own validation images watch and whose test images give the score; or the path of a folder of either.
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
        compute: Where and how to compute; on the accelerator in bfloat16, if there is one and nothing is given.
        out: Directory for the result; with several tries, each try has a directory of its own inside.
        loss: See `adapters.fit`; `weighted_cross_entropy` makes all classes count the same.
        sampling: See `adapters.fit`; `balanced` draws all classes equally often.
        log: `csv` or `tensorboard`, to write each epoch's record so too (`adapters.training_log`).
        seed: Fixes the split, the drawn labels, the initial weights and the order of the images.
        progress: Show progress bars on standard error.

    Raises:
        SelectionError: there is no try, no time, or `within` with several tries.
        Task2VecError, RecommendationError, StoreError, AdapterError: see `embed`, `recommend` and `adapters.fit`.
    """
    most = (1 if seconds is None else np.inf) if tries is None else tries
    several = most > 1
    if tries is not None and tries < 1:
        raise SelectionError(f"tries={tries} tunes nothing; give at least 1")
    if seconds is not None and seconds <= 0:
        raise SelectionError(f"seconds={seconds} leaves no time; give more than 0")
    if within is not None and several:
        raise SelectionError(f"within={within} names one configuration; leave it out where several are tried")
    if log is not None and out is None:
        raise SelectionError(f"log={log!r} needs a folder to write to; give out= too")
    evidence = store if store is not None else load_library()
    compute = compute or Compute()
    probe, model = probe or load_probe(), load_backbone(backbone)
    model.to(compute.device_for(next(model.parameters()).device))
    splits = splits_of(task)
    splits.train.learnable()
    with alone_in(out):
        splits = decoded(splits, probe.transform, transform_of(model), compute=compute, progress=progress)
        embedding = embed(splits.train, probe, compute=compute, seed=seed, progress=progress)
        facts = None if splits.train.multi_label else facts_of(splits.train, model, compute=compute)
        curves = curves_of(evidence, BackboneId.of_model(model))
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

        clock.slowness = slowness_of(ask(None), model, splits, compute)
        while not trials or (len(trials) < most and clock.left > 0):
            try:
                recommendation = ask(clock.limit(max_seconds) if finished else clock.in_trials_seconds(max_seconds))
            except RecommendationError:
                if not finished:
                    raise
                break  # everything was tried, or nothing else fits into the time
            number = len(trials) + 1
            watch = Watch(curves, recommendation.config, _best_validation(finished), clock if finished else None)
            tuned = tune_alone(
                splits,
                copy.deepcopy(model) if several else model,
                recommendation.config,
                init_from=recommendation.warm_start,
                out=None if out is None else Path(out) / f"try-{number}" if several else Path(out),
                compute=compute,
                loss=loss,
                sampling=sampling,
                log=log,
                seed=seed,
                on_epoch=watch if several else None,
                progress=progress,
            )
            trials.append(_trial_of(tuned, recommendation.config, seed, splits))
            expected = recommendation.candidate.seconds
            recommendation = timed(recommendation, clock.slowness)
            clock.learn(expected, watch.whole_seconds or tuned.fit.seconds)
            if not watch.gave_up:
                finished.append((recommendation, tuned))
            if len(trials) == len(recommendation.ranking):
                break
        recommendation, best = finished[_best_of(finished, trials, ask)]
        if out is not None:
            write(best, splits, Path(out), recommendation)
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


def _trial_of(tuned: Tuned, config: AdapterConfig, seed: int, splits: Splits) -> Trial:
    share = 1 - VALIDATION_SHARE if splits.validation is None else 1.0
    return Trial(
        config=config,
        backbone=BackboneId.of_model(tuned.model),
        score=None if tuned.test is None else tuned.test.accuracy,
        validation=tuned.fit.best.accuracy,
        parameters=adapters.num_adapter_parameters(tuned.model),
        seconds=tuned.fit.seconds,
        seed=seed,
        num_images=round(share * len(splits.train)),
        curve=tuned.fit.curve,
    )
