"""A task becomes a vector: fit a classifier on the probe's features, then measure the probe's Fisher."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Literal

import numpy as np
import torch

from task2vec.classifier import cross_validated_accuracy, fit_classifier
from task2vec.compute import Compute
from task2vec.embedding import Layer, TaskEmbedding
from task2vec.errors import Task2VecError
from task2vec.fisher import ESTIMATORS, DiagonalFisher, Settings, VariationalConfig
from task2vec.inputs import ProbeInputs, choose_batch_size
from task2vec.probe import Probe
from task2vec.progress import reporting
from task2vec.tasks import Task
from task2vec.thumbnails import thumbnails_of

# Chosen by how often the halves of a task find each other: docs/benchmarks.md, "Meaning".
DEFAULT_METHOD = "montecarlo"
DEFAULT_L2 = 1.0
DEFAULT_MAX_SAMPLES = 10_000


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
        batch_size: Images that are computed at once; `"auto"` keeps their activations within a gigabyte. No result
            depends on it beyond rounding, but for `variational` when it is below 16, the images that share one draw.
        compute: Where and how to compute; on the accelerator in bfloat16, if there is one and nothing is given. Nothing
            is compiled here: gradients are taken layer by layer.
        dtype: What to compute in, instead of what `compute` says. With bfloat16 or float16, sums are still float32.
        seed: Fixes the drawn images, labels and noise.
        thumbnails: Keep 16 small pictures of the task's images with the embedding, for its card in an atlas. Whoever
            gets the embedding, a store or archive that it is added to, or their atlas then sees these images.
        progress: Show progress bars on standard error.

    Raises:
        TaskError: all images are of one class.
        UnreadableImageError: fewer than 90% of the images can be decoded.
        ProbeError: there is no module `from_layer`, or it cannot be entered.
        ComputeError: the device is not there.
        Task2VecError: an unknown method or a setting out of range.
    """
    if method not in ESTIMATORS:
        raise Task2VecError(f"there is no estimator {method!r}; choose from {', '.join(sorted(ESTIMATORS))}")
    if draws < 1 or l2 <= 0 or (batch_size != "auto" and batch_size < 1):
        raise Task2VecError(f"draws={draws}, batch_size={batch_size} and l2={l2} must all be above 0")
    if not isinstance(task, Task):
        task = Task.from_folder(task)
    compute = compute or Compute()
    device = compute.device_for(probe.device)
    computed_in = dtype or compute.autocast_dtype or probe.dtype
    probe = probe.to(device, computed_in if computed_in in (torch.float32, torch.float64) else None)
    num_images = len(task.learnable())
    task = task.subsample(max_samples, seed=seed)
    size = choose_batch_size(task, probe) if batch_size == "auto" else batch_size
    settings = Settings(draws, np.random.default_rng(seed), variational or VariationalConfig())
    with reporting(progress) as report:
        inputs = ProbeInputs(
            task, probe, from_layer=from_layer, batch_size=size, report=report, workers=compute.workers
        )
        task = inputs.task
        report("Fitting the classifier", 0, 1)
        classifier = fit_classifier(inputs.features, task.labels, task.num_classes, l2=l2)
        unseen = cross_validated_accuracy(inputs.features, task.labels, task.num_classes, l2=l2, seed=seed)
        classifier = dataclasses.replace(classifier, cross_validated=unseen)
        report("Fitting the classifier", 1, 1)
        fisher = DiagonalFisher(inputs, classifier, batch_size=size, dtype=computed_in, report=report)
        estimate = ESTIMATORS[method](fisher, settings)
    return TaskEmbedding(
        fisher=estimate.fisher.astype(np.float32),
        layers=tuple(Layer(name, len(layer.weight)) for name, layer in inputs.layers.items()),
        probe=probe.fingerprint,
        probe_name=probe.name,
        method=method,
        num_samples=len(task),
        classes=task.class_names,
        classifier=classifier,
        task=task.name,
        num_images=num_images,
        unmeasured=probe.unmeasured + inputs.unmeasured,
        unreadable=task.unreadable,
        trivial=None if estimate.trivial is None else estimate.trivial.astype(np.float32),
        convergence=estimate.convergence,
        thumbnails=thumbnails_of(task, seed=seed) if thumbnails else (),
    )
