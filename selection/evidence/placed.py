"""A configuration whose sizes depend on the task: its parameters go where the Fisher of the backbone on the task is."""

from __future__ import annotations

from torch import nn

import adapters
import task2vec
from adapters import AdapterConfig
from adapters.data import Transform, transform_of
from selection.errors import SelectionError
from selection.evidence.space import parameters_on
from task2vec import Compute, Task

ENOUGH_IMAGES, ENOUGH_OF_A_CLASS = 100, 2  # more move hardly a rank (docs/placement.md), and cost a pass over them


def images_measured(num_classes: int) -> int:
    """How many images the places are measured on, at most: they are sums over many weights, which few images show."""
    return max(ENOUGH_IMAGES, ENOUGH_OF_A_CLASS * num_classes)


def placed(
    config: AdapterConfig,
    task: object,
    model: nn.Module,
    *,
    transform: Transform | None = None,
    compute: Compute | None = None,
    seed: int = 0,
    progress: bool = False,
) -> AdapterConfig:
    """The configuration with a size for each site in place of its `placement`; itself where it has none.

    It has at most as many parameters as with the same size everywhere. The Fisher is measured by one pass over
    `images_measured` of the images, drawn evenly from the classes (`task2vec.sensitivity`).

    Args:
        config: What will be tuned.
        task: The training images, a `task2vec.Task`.
        model: The backbone, on the device to compute on; it stays as it is.
        transform: From an image to the backbone's input; that of its pretraining if not given.
        compute: Where and how to compute.
        seed: Fixes what is drawn.
        progress: Show progress on standard error.

    Raises:
        SelectionError: the images are no task, so that nothing can be measured on them.
        ConfigError: the method does not fit the backbone, or has fewer than two places there.
    """
    if config.placement is None:
        return config
    if not isinstance(task, Task):
        raise SelectionError(
            f"placement={config.placement!r} is measured on a task2vec.Task, not {type(task).__name__}"
        )
    budget = parameters_on(model, config)
    if budget is None:
        return config.replace(placement=None)  # attaching it says what does not fit
    adapters.allocate(config, None, model, parameters=budget, rule="uniform")  # what cannot be placed is not measured
    found = task2vec.sensitivity(
        task,
        model,
        transform=transform or transform_of(model),
        compute=compute,
        max_samples=images_measured(task.num_classes),
        seed=seed,
        progress=progress,
    )
    return adapters.allocate(config, found.mass, model, parameters=budget, rule=config.placement)
