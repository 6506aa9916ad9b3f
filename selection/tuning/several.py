"""The whole way in one call: embed a task, ask the store, tune what it recommends, once or several times."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path

from torch import nn

import adapters
from adapters import AdapterConfig, BackboneId
from selection.errors import SelectionError
from selection.evidence.backbone import load_backbone
from selection.evidence.library import load_library
from selection.evidence.runner import VALIDATION_SHARE
from selection.recommendation.facts import facts_of
from selection.recommendation.recommend import recommend
from selection.recommendation.result import Recommendation
from selection.store import TaskStore, Trial
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
    tries: int = 1,
    max_params: int | None = None,
    max_seconds: float | None = None,
    mergeable_only: bool = False,
    methods: Sequence[str] | None = None,
    out: str | Path | None = None,
    seed: int = 0,
    progress: bool = True,
) -> AutoTuned:
    """Embed a task, recommend a configuration for the backbone, and tune it.

    Args:
        task: Training images; a fifth of them chooses the best epoch.
        backbone: A timm name, whose pretrained weights are loaded, or a model, which is changed in place; with several
            tries, copies of it.
        store: Where the evidence comes from; the shipped library if not given.
        probe: What the store's tasks were embedded with; the bundled probe if not given.
        tries: How many configurations to tune, each recommended in the light of those before; the best one by the
            recommender's expectations after all of them is kept.
        max_params: See `recommend`.
        max_seconds: See `recommend`.
        mergeable_only: See `recommend`.
        methods: See `recommend`.
        out: Directory for `adapter.safetensors`, `adapter.json`, `metrics.jsonl` and `merged.safetensors`; with several
            tries, each try has a directory of its own inside.
        seed: Fixes the split, the drawn labels, the initial weights and the order of the images.
        progress: Show progress bars on standard error.

    Raises:
        SelectionError: there is no try, or an image has several labels.
        Task2VecError, RecommendationError, StoreError, AdapterError: see `embed`, `recommend` and `adapters.fit`.
    """
    check_single_label(task)
    if tries < 1:
        raise SelectionError(f"tries={tries} tunes nothing; give at least 1")
    evidence = store if store is not None else load_library()
    embedding = embed(task, probe or load_probe(), seed=seed, progress=progress)
    facts = facts_of(task, load_backbone(backbone))

    def ask(trials: Sequence[Trial]) -> Recommendation:
        return recommend(
            embedding,
            evidence,
            backbone,
            facts=facts,
            trials=trials,
            max_params=max_params,
            max_seconds=max_seconds,
            mergeable_only=mergeable_only,
            methods=methods,
        )

    trials: list[Trial] = []
    found: list[tuple[Recommendation, Tuned]] = []
    for number in range(1, tries + 1):
        recommendation = ask(trials)
        own = backbone if tries == 1 or isinstance(backbone, str) else copy.deepcopy(backbone)
        place = None if out is None else Path(out) / f"try-{number}" if tries > 1 else Path(out)
        tuned = tune(
            task,
            own,
            recommendation.config,
            init_from=recommendation.warm_start,
            out=place,
            seed=seed,
            progress=progress,
        )
        found.append((recommendation, tuned))
        trials.append(_trial_of(tuned, recommendation.config, seed, len(task)))
        if len(trials) == len(recommendation.ranking):
            break
    recommendation, best = found[_best_of(found, trials, ask)]
    if out is not None and tries > 1:
        write(best, Path(out), task.class_names)
    return AutoTuned(**vars(best), embedding=embedding, recommendation=recommendation, trials=tuple(trials))


def _best_of(
    found: Sequence[tuple[Recommendation, Tuned]],
    trials: Sequence[Trial],
    ask: Callable[[Sequence[Trial]], Recommendation],
) -> int:
    """Which of the tries is expected to be the best, what was seen on all of them considered."""
    if len(trials) == 1:
        return 0
    if len(trials) == len(found[0][0].ranking) or not found[0][0].is_calibrated:
        return max(range(len(trials)), key=lambda i: trials[i].validation)
    expected = {candidate.config: candidate.predicted for candidate in ask(trials).ranking}
    return max(range(len(trials)), key=lambda i: expected[trials[i].config])


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
