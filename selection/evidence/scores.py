"""How much each weight matters on the task that is tuned, for the methods that choose weights one by one."""

from __future__ import annotations

import copy
from collections.abc import Iterator

import torch
from torch import Tensor, nn

import adapters
from adapters import METHODS, AdapterConfig
from adapters.data import Batches, Transform
from selection.errors import SelectionError
from task2vec import Compute, Task

BATCH_SIZE = 64  # several images of each class
MOST_IMAGES = 1024  # drawn at random from larger tasks: scores are means over images


def scores_of(
    task: object, model: nn.Module, config: AdapterConfig, *, transform: Transform, compute: Compute, seed: int
) -> dict[str, Tensor] | None:
    """The scores that a method needs; None for one that needs none.

    Gradients are those of the features' contrastive loss. The Fisher is taken under a classifier that is fitted on the
    task first, since under a new one gradients tell of its random weights.

    Args:
        task: The training images, a `task2vec.Task`.
        model: The backbone, on the device to compute on; it stays as it is.
        config: What will be tuned.
        transform: From an image to the backbone's input.
        compute: Where and how to compute.
        seed: Fixes the images and their order.

    Raises:
        SelectionError: the images are no task, so that nothing can be measured on them.
    """
    scores = METHODS[config.method].scores
    if not scores:
        return None
    if not isinstance(task, Task):
        raise SelectionError(f"{config.method} chooses weights on a task2vec.Task, not {type(task).__name__}")
    batches = Batches(task, transform, workers=compute.workers)
    if scores == "gradient":
        return adapters.gradient_scores(model, _in_random_order(batches, seed))
    fitted = adapters.attach(copy.deepcopy(model), AdapterConfig("linear"), task.num_classes, seed=seed)
    adapters.fit(fitted, batches, workers=compute.workers, seed=seed, progress=False)
    return adapters.fisher_scores(fitted, _in_random_order(batches, seed))


def _in_random_order(batches: Batches, seed: int) -> Iterator[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(seed)
    for numbers in torch.randperm(len(batches), generator=generator)[:MOST_IMAGES].split(BATCH_SIZE):
        yield batches.take(numbers)
