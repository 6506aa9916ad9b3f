"""How many images a probe takes at once."""

from __future__ import annotations

from typing import Any

import numpy as np
from torch import Tensor, nn

from task2vec.probe import Probe
from task2vec.tasks import Task

BATCH_BYTES = 2**30  # activations of one batch, and as many gradients of them
MAX_BATCH = 64


def choose_batch_size(task: Task, probe: Probe) -> int:
    """How many images at once: as many as keep the activations of a batch within `BATCH_BYTES`, a power of two.

    It depends on the probe and the size of its inputs alone, so that results do not change from machine to machine.
    """
    image = next((images for _, images, _ in task.batches(probe.transform, 1, workers=0) if len(images)), None)
    if image is None:
        return 1
    total = image.numel() * image.element_size()

    def count(module: nn.Module, args: Any, output: Any) -> None:
        nonlocal total
        if isinstance(output, Tensor):
            total += output.numel() * output.element_size()

    handles = [m.register_forward_hook(count) for m in probe.module.modules() if not list(m.children())]
    try:
        probe.features(image)
    finally:
        for handle in handles:
            handle.remove()
    return 2 ** int(np.log2(np.clip(BATCH_BYTES // (2 * total), 1, MAX_BATCH)))
