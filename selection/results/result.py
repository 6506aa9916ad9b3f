"""A tuned model that was written to a folder, ready to be used."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import timm
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from timm.data import create_transform
from torch import nn

import adapters
from adapters.data import Transform
from selection.errors import SelectionError
from selection.evidence.backbone import load_backbone
from selection.results.description import Description
from selection.results.images import unlabelled
from selection.results.known_outputs import gives
from selection.results.label_validation import LabelValidation
from selection.results.predictions import Predictions
from selection.results.validation import Validation
from task2vec import Compute, Splits, Task
from task2vec.tasks.splits import read_to_measure
from task2vec.weights import sized

MERGED = "merged.safetensors"
BATCH_SIZE = 64


@dataclasses.dataclass(frozen=True)
class Result:
    """A tuned model with all that is needed to use it.

    Attributes:
        folder: Where it lies.
        description: What it is.
        model: The plain model where the adapter merges, otherwise the backbone with its adapter; in evaluation mode.
        compute: Where and how it computes.
    """

    folder: Path
    description: Description
    model: nn.Module
    compute: Compute

    def __repr__(self) -> str:
        own = self.description
        score = own.test or own.validation
        return f"Result({own.task!r}, {own.config['method']} on {own.backbone}, {score or 'not measured'})"

    @property
    def transform(self) -> Transform:
        """RGB image to the tensor that the model takes."""
        made: Transform = create_transform(**self.description.preprocessing, is_training=False)
        return made

    def predict(self, images: Any, *, batch_size: int = BATCH_SIZE) -> Predictions:
        """Probabilities of the classes for images.

        Args:
            images: What `selection.results.images.unlabelled` takes: paths of files, folders or zips, PIL images,
                arrays, tensors, or a task.
            batch_size: Images at once.

        Raises:
            SelectionError: there are no images, or none can be read.
            TaskError: nothing lies at a path.
        """
        task, names = unlabelled(images)
        probabilities, unreadable = self._probabilities(task, batch_size)
        if len(unreadable) == len(task):
            raise SelectionError(f"none of {len(task)} images can be read; {next(iter(unreadable.values()))}")
        kept = tuple(name for i, name in enumerate(names) if i not in unreadable)
        own = self.description
        return Predictions(kept, own.class_names, probabilities, own.multi_label, tuple(unreadable.values()))

    def validate(
        self, images: Task | Splits | str | Path, *, separator: str | None = None, batch_size: int = BATCH_SIZE
    ) -> Validation | LabelValidation:
        """How well it does on labelled images.

        Args:
            images: A task, or the path of one. Of several splits the test images count, else the validation images,
                else all. Classes are matched by their names.
            separator: What stands between several labels of an image in a table, as in `Task.from_table`.
            batch_size: Images at once.

        Returns:
            A `LabelValidation` where the model tells several labels an image, otherwise a `Validation`.

        Raises:
            SelectionError: the model tells several labels an image and the task has one, or the other way round; none
                of the images can be read; or a separator is given for a task.
            TaskError: a class is not one of the model's.
        """
        if isinstance(images, str | Path):
            images = read_to_measure(images, separator=separator)
        elif separator is not None:
            raise SelectionError(f"separator={separator!r} is of a table; leave it out where a task is given")
        task = (images.test or images.validation or images.train) if isinstance(images, Splits) else images
        task = task.in_classes_of(self._known_classes(task))
        probabilities, unreadable = self._probabilities(task, batch_size)
        if len(unreadable) == len(task):
            raise SelectionError(f"none of {len(task)} images of {task.name!r} can be read, such as {unreadable[0]}")
        kept = np.setdiff1d(np.arange(len(task)), np.fromiter(unreadable, np.int64))
        kind = LabelValidation if task.multi_label else Validation
        return kind.of(probabilities, task.labels[kept], task.class_names, tuple(unreadable.values()))

    def _known_classes(self, measured: Task) -> Task:
        """The model's classes, as a task whose class numbers another one can take.

        Raises:
            SelectionError: one of both has several labels an image.
        """
        own = self.description
        if own.multi_label != measured.multi_label:
            tells, has = ("several labels", "one") if own.multi_label else ("one label", "several")
            raise SelectionError(
                f"the model in {self.folder} tells {tells} an image, but those of {measured.source or measured.name} "
                f"have {has}; give images labelled alike, in a table with a separator for several labels"
            )
        labels = np.zeros((1, len(own.class_names)) if own.multi_label else 1, np.int64)
        return Task(own.task, labels, own.class_names, measured.images, source=f"the model in {self.folder}")

    def _probabilities(self, task: Task, batch_size: int) -> tuple[npt.NDArray[np.float32], dict[int, str]]:
        own = self.description
        return probabilities_of(
            self.model,
            self.transform,
            task,
            num_classes=len(own.class_names),
            multi_label=own.multi_label,
            compute=self.compute,
            batch_size=batch_size,
        )

    def export(self, path: str | Path, format: Literal["safetensors", "onnx", "torch"] | None = None) -> float:
        """See `selection.results.export.export`."""
        from selection.results.export import export  # it builds upon results

        return export(self, path, format)


def probabilities_of(
    model: nn.Module,
    transform: Transform,
    task: Task,
    *,
    num_classes: int,
    multi_label: bool = False,
    compute: Compute,
    batch_size: int = BATCH_SIZE,
) -> tuple[npt.NDArray[np.float32], dict[int, str]]:
    """Probabilities `(N, C)` of the readable images, and what is wrong with the others, by their numbers.

    Raises:
        SelectionError: a batch holds no image.
    """
    if batch_size < 1:
        raise SelectionError(f"batch_size={batch_size} reads no image; give at least 1")
    device = next(model.parameters()).device
    rows: list[torch.Tensor] = []
    unreadable: dict[int, str] = {}
    batches = task.batches(transform, batch_size, workers=compute.workers)
    dtype = compute.autocast_dtype
    with torch.inference_mode():
        for start, images, failures in batches:
            unreadable |= {start + offset: name for offset, name in failures.items()}
            if len(images):
                with torch.autocast(device.type, dtype, enabled=dtype is not None):
                    logits = model(images.to(device)).float()
                rows.append(logits.sigmoid() if multi_label else logits.softmax(dim=1))
    found = torch.cat(rows).cpu().numpy() if rows else np.empty((0, num_classes))
    return found.astype(np.float32), unreadable


def load_result(
    folder: str | Path,
    *,
    backbone: nn.Module | None = None,
    checkpoint: str | Path | None = None,
    compute: Compute | None = None,
) -> Result:
    """A tuned model from the folder that `task2vec tune` or `selection.tune(out=)` wrote.

    Args:
        folder: The folder.
        backbone: The pretrained model, where it is not one of timm's.
        checkpoint: Local weights of the backbone; a merged model needs none.
        compute: Where and how to compute; on the accelerator in bfloat16, if there is one and nothing is given.

    Raises:
        SelectionError: there is no result, it is damaged, the backbone is not to be had, or what was loaded gives
            something else than what was tuned.
        CheckpointError: the adapter does not fit the backbone.
    """
    folder, compute = Path(folder), compute or Compute()
    description = Description.read(folder)
    merged = folder / MERGED
    if merged.exists() and backbone is None and timm.is_model(description.backbone.split(".")[0]):
        model = _as_tuned(plain_model(description, merged), description, folder)
    else:
        model = load_adapted(folder, backbone=backbone, checkpoint=checkpoint)
    device = compute.device_for(next(model.parameters()).device)
    return Result(folder, description, model.to(device).eval(), compute)


def load_adapted(folder: Path, *, backbone: nn.Module | None = None, checkpoint: str | Path | None = None) -> nn.Module:
    """The backbone of a result with its adapter, whether or not that merges.

    Raises:
        SelectionError: as `load_result`.
        CheckpointError: the adapter does not fit the backbone.
    """
    description = Description.read(folder)
    if backbone is None and not timm.is_model(description.backbone.split(".")[0]):
        raise SelectionError(f"{description.backbone} is none of timm's models; give it as backbone=")
    source = description.backbone_source or description.backbone
    model = load_backbone(backbone or source, checkpoint, image_size=description.image_size)
    return _as_tuned(adapters.load(model, folder), description, folder)


def _as_tuned(model: nn.Module, description: Description, folder: Path) -> nn.Module:
    """A loaded model, if it gives what the tuned one gave.

    Raises:
        SelectionError: it gives something else.
    """
    if not gives(model, description.preprocessing["input_size"], description.outputs):
        raise SelectionError(
            f"the model in {folder} does not give what it gave after tuning: its files are damaged, or "
            f"{description.backbone} was made with further arguments; give the model that was tuned as backbone="
        )
    return model


def plain_model(description: Description, merged: Path) -> nn.Module:
    """timm's model with the merged weights; nothing pretrained is asked for.

    Raises:
        SelectionError: the weights are damaged or none of this model's.
    """
    architecture, count = description.backbone.split(".")[0], len(description.class_names)
    try:
        model: nn.Module = timm.create_model(
            architecture, num_classes=count, **sized(architecture, description.image_size)
        )
        model.load_state_dict(load_file(merged))
    except (SafetensorError, RuntimeError, OSError) as error:
        first = str(error).splitlines()[0]
        raise SelectionError(f"{merged} does not fit {architecture} ({first}); merge the adapter again") from error
    return model
