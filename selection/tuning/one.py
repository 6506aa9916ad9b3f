"""One configuration tuned on a task, and merged where the method can."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

from safetensors.torch import save as to_bytes
from torch import nn

import adapters
from adapters import AdapterConfig, FitResult
from selection.errors import SelectionError
from selection.evidence.backbone import load_backbone
from selection.evidence.runner import VALIDATION_SHARE
from task2vec import Task

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


def tune(
    task: Task,
    backbone: str | nn.Module,
    config: AdapterConfig,
    *,
    init_from: str | Path | None = None,
    out: str | Path | None = None,
    seed: int = 0,
    on_epoch: Callable[[nn.Module, dict[str, float]], object] | None = None,
    progress: bool = True,
) -> Tuned:
    """Tune one configuration on a task, with a fifth of its images to watch, and merge if the method can.

    The last epoch's weights are kept, as they are at least as good as those of the best epoch (docs/pilot.md), and
    leave the validation accuracy an honest one: nothing was chosen by it. `init_from` and `on_epoch` are those of
    `adapters.fit`, the other arguments are those of `auto_tune`.
    """
    check_single_label(task)
    task = task.readable(progress=progress)
    train, validation = task.split(VALIDATION_SHARE, seed=seed)
    model = adapters.attach(load_backbone(backbone), config, task.num_classes, seed=seed)
    result = adapters.fit(
        model,
        train,
        validation,
        init_from=init_from,
        keep="last",
        seed=seed,
        out=out,
        on_epoch=on_epoch,
        progress=progress,
    )
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


def check_single_label(task: Task) -> None:
    """Refuse tasks that cannot be tuned.

    Raises:
        TaskError: all images are of one class.
        SelectionError: an image has several labels.
    """
    task.learnable()
    if task.multi_label:
        raise SelectionError(f"task {task.name!r} has several labels an image; only tasks with one can be tuned")


def save_merged(merged: nn.Module, path: Path) -> None:
    """Write a plain model's weights, under the names that timm gives them."""
    tensors = {name: tensor.contiguous() for name, tensor in merged.state_dict().items()}
    adapters.write_atomically(path, lambda temporary: temporary.write_bytes(to_bytes(tensors)))
