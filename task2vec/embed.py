"""A task becomes a vector: fit a classifier on the probe's features, then measure the probe's Fisher."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import torch

from task2vec.compute import Compute
from task2vec.embedding import TaskEmbedding
from task2vec.fisher import VariationalConfig
from task2vec.plan import DEFAULT_L2, DEFAULT_MAX_SAMPLES, DEFAULT_METHOD, Plan
from task2vec.probe import Probe
from task2vec.progress import reporting
from task2vec.tasks import Task


def embed(
    task: Task | str | Path,
    probe: Probe,
    method: str = DEFAULT_METHOD,
    *,
    draws: int = 1,
    l2: float = DEFAULT_L2,
    variational: VariationalConfig | None = None,
    from_layer: str | None = None,
    max_samples: int | None = DEFAULT_MAX_SAMPLES,
    batch_size: int | Literal["auto"] = "auto",
    compute: Compute | None = None,
    dtype: torch.dtype | None = None,
    seed: int = 0,
    thumbnails: bool = False,
    progress: bool = False,
) -> TaskEmbedding:
    r"""Embed a task under a probe (Task2Vec, Achille et al. 2019, https://arxiv.org/abs/1902.03545).

    The embedding is the mean over each filter's weights of the diagonal Fisher

    $$F = \mathbb{E}_x \mathbb{E}_{y \sim p(y \mid x)} \left( \frac{\partial \log p(y \mid x)}{\partial w} \right)^2$$

    with a classifier on the frozen probe that was fitted to the task first.

    Args:
        task: The labelled images; with labels `(N, C)`, each class is present or absent by itself. A path is read by
            `Task.from_folder`.
        probe: The frozen network.
        method: Which labels the gradients are taken at: `montecarlo` draws them from the model, `hutchinson` takes a
            random combination of all of them, `exact` takes their expectation, `empirical` takes the dataset's;
            `variational` finds the noise that the weights bear, and measures under it.
        draws: Labels or combinations drawn for each image by `montecarlo`, `hutchinson` and `variational`.
        l2: Strength of the classifier's penalty on standardised features, above 0.
        variational: Settings of the method of this name; its defaults if not given.
        from_layer: Measure only from this module of the probe on, such as `"layer3"`; what precedes it is computed
            once. All layers if not given.
        max_samples: At most so many images, drawn evenly from the classes; None for all.
        batch_size: Images that are computed at once; `"auto"` keeps their activations within a gigabyte. Results
            do not depend on it beyond rounding. One exception: `variational` draws noise for 16 images at a time, so
            that smaller batches draw other noise.
        compute: Where and how to compute; on the accelerator in bfloat16, if there is one and nothing is given. Nothing
            is compiled here: gradients are taken layer by layer.
        dtype: What to compute in, instead of what `compute` says. With bfloat16 or float16, sums are still float32.
        seed: Fixes the drawn images, labels and noise.
        thumbnails: Keep 16 small pictures of the task's images with the embedding, for its card in an atlas. Whoever
            gets the embedding, a store or archive that it is added to, or their atlas then sees these images.
        progress: Show progress bars on standard error.

    Raises:
        TaskError: all images are of one class, or `max_samples` cannot show the classes.
        UnreadableImageError: fewer than 90% of the images can be decoded.
        ProbeError: there is no module `from_layer`, or it cannot be entered; the network mixes the images of a batch,
            or none of its layers can be measured.
        ComputeError: the device is not there.
        Task2VecError: an unknown method or a setting out of range.
    """
    plan = Plan.of(
        task,
        method,
        draws=draws,
        l2=l2,
        variational=variational,
        from_layer=from_layer,
        max_samples=max_samples,
        batch_size=batch_size,
        compute=compute,
        dtype=dtype,
        seed=seed,
        thumbnails=thumbnails,
    )
    with reporting(progress) as report:
        return plan.run(probe, report)
