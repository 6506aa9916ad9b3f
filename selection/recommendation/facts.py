"""What one pass of a target's images through the backbone says, before anything is tuned.

The accuracy of a linear probe pins the level that tuning starts from, and it is a first trial for nothing. The same
after each third of the blocks says how far the features that the task needs lie from where the backbone keeps them.

Indices: i image, d feature.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from adapters import BackboneId
from adapters.data import Transform, transform_of
from adapters.sites import block_names, classifier_names
from selection.errors import SelectionError
from selection.recommendation.transferability import SCORES, Outputs
from selection.store import BackboneFacts
from task2vec import Compute, Task
from task2vec.classifier import cross_validated_accuracy

Array = npt.NDArray[np.float64]

DEPTHS = 3  # at which features are read: after each third of the blocks
PENALTY = 0.03  # of the probes, on standardised features
BATCH_SIZE = 64


def facts_of(
    task: Task, backbone: nn.Module, *, transform: Transform | None = None, compute: Compute | None = None
) -> BackboneFacts:
    """Read a task's images once through a backbone.

    Args:
        task: Labelled images, one label each; those that cannot be decoded are left out.
        backbone: As it will be tuned. It stays as it is.
        transform: Image to tensor; the backbone's own preprocessing if not given.
        compute: Where and how to compute; on the accelerator in bfloat16, if there is one and nothing is given.

    Raises:
        SelectionError: an image has several labels.
        TaskError: all images are of one class.
        UnreadableImageError: fewer than 90% of the images can be decoded.
    """
    if task.multi_label:
        raise SelectionError(f"task {task.name!r} has several labels an image; a linear probe here takes one")
    task.learnable()
    bad: dict[int, str] = {}
    rows: list[list[Tensor]] = []
    compute = compute or Compute()
    parameter = next(backbone.parameters())
    backbone.to(compute.device_for(parameter.device))
    autocast = compute.autocast_dtype
    training = backbone.training
    backbone.eval()
    try:
        with torch.no_grad(), _features(backbone) as read:
            for start, images, failures in task.batches(
                transform or transform_of(backbone), BATCH_SIZE, workers=compute.workers
            ):
                bad |= {start + offset: name for offset, name in failures.items()}
                if len(images):
                    with torch.autocast(parameter.device.type, autocast, enabled=autocast is not None):
                        rows.append(read(images.to(parameter.device, parameter.dtype)))
    finally:
        backbone.train(training)
    task = task.without(bad)
    layers = [torch.cat([row[k] for row in rows]).double().numpy() for k in range(len(rows[0]))]
    probes = [cross_validated_accuracy(f, task.labels, task.num_classes, l2=PENALTY) for f in layers]
    outputs = Outputs(_standardised(layers[-1]), np.empty((0, 0)), task.labels)
    return BackboneFacts(
        backbone=BackboneId.of_model(backbone),
        num_images=len(task),
        num_classes=task.num_classes,
        linear_probe=probes[-1],
        by_depth=tuple(probes[:-1]),
        logme=SCORES["logme"](outputs),
        h_score=SCORES["h_score"](outputs),
    )


@contextmanager
def _features(backbone: nn.Module) -> Iterator[Any]:
    """Inside the context, a function from images to features `(N, d)`: after each third of the blocks, averaged over
    positions, and at the classifier.
    """
    names = block_names(backbone)
    # A network without blocks has its final features at every depth.
    chosen = [names[round((k + 1) * len(names) / DEPTHS) - 1] if names else "" for k in range(DEPTHS)]
    taken: dict[str, Tensor] = {}
    handles = [
        backbone.get_submodule(name).register_forward_hook(
            lambda _, args, output, name=name: taken.__setitem__(name, output)
        )
        for name in filter(None, chosen)
    ]
    head = backbone.get_submodule(classifier_names(backbone)[0])
    handles.append(head.register_forward_pre_hook(lambda _, args: taken.__setitem__("", args[0])))

    def read(images: Tensor) -> list[Tensor]:
        backbone(images)
        final = taken[""].float().cpu()
        return [*(_pooled(taken[name], len(images)).float().cpu() for name in chosen), final]

    try:
        yield read
    finally:
        for handle in handles:
            handle.remove()


def _pooled(output: Tensor, count: int) -> Tensor:
    """Features `(N, d)` of tokens `(N, T, d)`, maps `(N, d, H, W)`, or maps `(N, H, W, d)` as Swin has them.

    A block may see several rows an image, one after the other, as MobileViT's do.
    """
    if output.ndim == 4:
        channels_last = output.shape[1] == output.shape[2] != output.shape[3]
        return output.mean(dim=(1, 2) if channels_last else (2, 3))
    return output.reshape(count, -1, output.shape[-1]).mean(dim=1)


def _standardised(features: Array) -> Array:
    spread = features.std(axis=0)
    return np.asarray((features - features.mean(axis=0)) / np.where(spread > 0, spread, 1.0))
