"""An adapter attached where its task wants it: in the places, or to the weights, that matter on the training images."""

from __future__ import annotations

from torch import nn

import adapters
from adapters import AdapterConfig
from adapters.data import Transform, transform_of
from selection.evidence.placed import placed
from selection.evidence.scores import scores_of
from task2vec import Compute


def attach_for(
    task: object,
    model: nn.Module,
    config: AdapterConfig,
    num_classes: int,
    *,
    transform: Transform | None = None,
    compute: Compute,
    seed: int,
    progress: bool = False,
) -> nn.Module:
    """`adapters.attach`, with the sizes and the weights that are measured on the task before.

    Args:
        task: The training images; a `task2vec.Task` where something is measured on them.
        model: The backbone, on the device to compute on; changed in place.
        config: What will be tuned, whose `placement` is carried out.
        num_classes: Of the new classifier.
        transform: From an image to the backbone's input; that of its pretraining if not given.
        compute: Where and how to compute.
        seed: Fixes what is drawn, and the initial weights.
        progress: Show progress on standard error.

    Raises:
        SelectionError: see `placed` and `scores_of`.
        ConfigError: the method does not fit the backbone.
    """
    transform = transform or transform_of(model)
    own = placed(config, task, model, transform=transform, compute=compute, seed=seed, progress=progress)
    scores = scores_of(task, model, own, transform=transform, compute=compute, seed=seed)
    return adapters.attach(model, own, num_classes, seed=seed, scores=scores)
