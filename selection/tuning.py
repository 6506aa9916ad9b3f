"""The whole way in one call: embed a task, ask the store, tune what it recommends, merge where that is possible."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path

import timm
from safetensors.torch import save as to_bytes
from torch import nn

import adapters
from adapters import AdapterConfig, BackboneId, FitResult
from selection.errors import SelectionError
from selection.library import load_library
from selection.recommendation import Recommendation, recommend
from selection.store import TaskStore
from selection.trials import Trial
from task2vec import Probe, Task, TaskEmbedding, embed, load_probe

VALIDATION_SHARE = 0.2
MERGED = "merged.safetensors"


@dataclasses.dataclass(frozen=True)
class Tuned:
    """A tuned model and how it went.

    Attributes:
        model: The backbone with its tuned adapter and classifier, in evaluation mode.
        fit: The training's history and best epoch.
        merged: The plain model, if the method can merge.
        out: Where adapter, metrics and merged weights were written; None if nowhere.
    """

    model: nn.Module
    fit: FitResult
    merged: nn.Module | None
    out: Path | None


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
    _check_single_label(task)
    if tries < 1:
        raise SelectionError(f"tries={tries} tunes nothing; give at least 1")
    evidence = store if store is not None else load_library()
    embedding = embed(task, probe or load_probe(), seed=seed, progress=progress)

    def ask(trials: Sequence[Trial]) -> Recommendation:
        return recommend(
            embedding,
            evidence,
            backbone,
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


def tune(
    task: Task,
    backbone: str | nn.Module,
    config: AdapterConfig,
    *,
    init_from: str | Path | None = None,
    out: str | Path | None = None,
    seed: int = 0,
    progress: bool = True,
) -> Tuned:
    """Tune one configuration on a task, keep the best epoch on a fifth of its images, and merge if the method can.

    `init_from` is that of `adapters.fit`, the other arguments are those of `auto_tune`.
    """
    _check_single_label(task)
    task = task.readable(progress=progress)
    train, validation = task.split(VALIDATION_SHARE, seed=seed)
    model = adapters.attach(load_backbone(backbone), config, task.num_classes, seed=seed)
    result = adapters.fit(model, train, validation, init_from=init_from, seed=seed, out=out, progress=progress)
    if out is not None:  # before merging, so that whatever may go wrong there, the training is not lost
        adapters.save(model, out, class_names=task.class_names)
    merged = None if adapters.METHODS[config.method].cannot_merge else adapters.merge(model).eval()
    tuned = Tuned(model, result, merged, None if out is None else Path(out))
    if out is not None:
        write(tuned, Path(out), task.class_names)
    return tuned


def write(tuned: Tuned, out: Path, class_names: tuple[str, ...]) -> None:
    """Adapter and, if there is one, merged model."""
    adapters.save(tuned.model, out, class_names=class_names)
    if tuned.merged is not None:
        save_merged(tuned.merged, out / MERGED)


def _check_single_label(task: Task) -> None:
    task.learnable()
    if task.multi_label:
        raise SelectionError(f"task {task.name!r} has several labels an image; only tasks with one can be tuned")


def save_merged(merged: nn.Module, path: Path) -> None:
    """Write a plain model's weights, under the names that timm gives them."""
    tensors = {name: tensor.contiguous() for name, tensor in merged.state_dict().items()}
    adapters.write_atomically(path, lambda temporary: temporary.write_bytes(to_bytes(tensors)))


def load_backbone(backbone: str | nn.Module, checkpoint: str | Path | None = None) -> nn.Module:
    """A model as it is, or timm's model of that name with its pretrained weights or those of a local file.

    Raises:
        SelectionError: timm does not know the name, or the weights cannot be had or do not fit.
    """
    if isinstance(backbone, nn.Module):
        return backbone
    if not timm.is_model(backbone):
        raise SelectionError(f"timm knows no model {backbone!r}; timm.list_models() names those it has")
    try:
        model: nn.Module = timm.create_model(backbone, pretrained=checkpoint is None)
        if checkpoint is not None:
            timm.models.load_checkpoint(model, str(checkpoint), weights_only=True)
    except Exception as error:  # downloads and files fail in many ways, all with the same remedy
        source = f"weights from {checkpoint}" if checkpoint is not None else f"pretrained weights of {backbone}"
        raise SelectionError(f"cannot load {source} ({error}); give local weights of this model") from error
    return model
