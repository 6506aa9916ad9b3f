"""The whole way in one call: embed a task, ask the store, tune what it recommends, merge where that is possible."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import timm
from safetensors.torch import save as to_bytes
from torch import nn

import adapters
from adapters import AdapterConfig, FitResult
from selection.errors import SelectionError
from selection.library import load_library
from selection.recommendation import Recommendation, recommend
from selection.store import TaskStore
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
    """A tuned model with what led to it."""

    embedding: TaskEmbedding
    recommendation: Recommendation


def auto_tune(
    task: Task,
    backbone: str | nn.Module = adapters.DEFAULT_BACKBONE,
    store: TaskStore | None = None,
    *,
    probe: Probe | None = None,
    max_params: int | None = None,
    max_seconds: float | None = None,
    out: str | Path | None = None,
    seed: int = 0,
    progress: bool = True,
) -> AutoTuned:
    """Embed a task, recommend a configuration for the backbone, and tune it.

    Args:
        task: Training images; a fifth of them chooses the best epoch.
        backbone: A timm name, whose pretrained weights are loaded, or a model. A model is changed in place.
        store: Where the evidence comes from; the shipped library if not given.
        probe: What the store's tasks were embedded with; the bundled probe if not given.
        max_params: See `recommend`.
        max_seconds: See `recommend`.
        out: Directory for `adapter.safetensors`, `adapter.json`, `metrics.jsonl` and `merged.safetensors`.
        seed: Fixes the split, the drawn labels, the initial weights and the order of the images.
        progress: Show progress bars on standard error.

    Raises:
        Task2VecError, RecommendationError, StoreError, AdapterError: see `embed`, `recommend` and `adapters.fit`.
    """
    _check_single_label(task)
    embedding = embed(task, probe or load_probe(), seed=seed, progress=progress)
    recommendation = recommend(
        embedding,
        store if store is not None else load_library(),
        backbone,
        max_params=max_params,
        max_seconds=max_seconds,
    )
    tuned = tune(task, backbone, recommendation.config, out=out, seed=seed, progress=progress)
    return AutoTuned(**vars(tuned), embedding=embedding, recommendation=recommendation)


def tune(
    task: Task,
    backbone: str | nn.Module,
    config: AdapterConfig,
    *,
    out: str | Path | None = None,
    seed: int = 0,
    progress: bool = True,
) -> Tuned:
    """Tune one configuration on a task, keep the best epoch on a fifth of its images, and merge if the method can.

    The arguments are those of `auto_tune`.
    """
    _check_single_label(task)
    task = task.readable(progress=progress)
    train, validation = task.split(VALIDATION_SHARE, seed=seed)
    model = adapters.attach(load_backbone(backbone), config, task.num_classes, seed=seed)
    result = adapters.fit(model, train, validation, seed=seed, out=out, progress=progress)
    merged = None if adapters.METHODS[config.method].cannot_merge else adapters.merge(model).eval()
    if out is not None:
        adapters.save(model, out, class_names=task.class_names)
        if merged is not None:
            save_merged(merged, Path(out) / MERGED)
    return Tuned(model, result, merged, None if out is None else Path(out))


def _check_single_label(task: Task) -> None:
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
