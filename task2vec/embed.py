"""A task becomes a vector: fit a classifier on the probe's features, then measure the probe's Fisher."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch

from task2vec.classifier import fit_classifier
from task2vec.embedding import Layer, TaskEmbedding
from task2vec.errors import Task2VecError
from task2vec.fisher import ESTIMATORS, diagonal_fisher
from task2vec.probe import Probe
from task2vec.progress import Report, reporting
from task2vec.task import Task

DEFAULT_L2 = 0.1
DEFAULT_MAX_SAMPLES = 10_000


def embed(
    task: Task,
    probe: Probe,
    method: str = "montecarlo",
    *,
    draws: int = 1,
    l2: float = DEFAULT_L2,
    max_samples: int | None = DEFAULT_MAX_SAMPLES,
    batch_size: int = 64,
    seed: int = 0,
    progress: bool = False,
) -> TaskEmbedding:
    """Embed a task under a probe (Task2Vec, Achille et al. 2019, https://arxiv.org/abs/1902.03545).

    Args:
        task: The labelled images.
        probe: The frozen network, on the device to compute on.
        method: Which labels the gradients are taken at: `montecarlo` draws them from the model, `exact` takes the
            expectation over all classes, `empirical` takes the dataset's.
        draws: Labels drawn for each image by `montecarlo`.
        l2: Strength of the classifier's penalty on standardised features, above 0.
        max_samples: At most so many images, drawn evenly from the classes; None for all.
        batch_size: Images that are computed at once; no result depends on it beyond rounding.
        seed: Fixes the drawn images and labels.
        progress: Show progress bars on standard error.

    Raises:
        UnreadableImageError: fewer than 90% of the images can be decoded.
        Task2VecError: an unknown method or a setting out of range.
    """
    if method not in ESTIMATORS:
        raise Task2VecError(f"there is no estimator {method!r}; choose from {', '.join(sorted(ESTIMATORS))}")
    if draws < 1 or batch_size < 1 or l2 <= 0:
        raise Task2VecError(f"draws={draws}, batch_size={batch_size} and l2={l2} must all be above 0")
    task = task.subsample(max_samples, seed=seed)
    with reporting(progress) as report:
        task, features = extract_features(task, probe, batch_size=batch_size, report=report)
        report("Fitting the classifier", 0, 1)
        classifier = fit_classifier(features, task.labels, task.num_classes, l2=l2)
        report("Fitting the classifier", 1, 1)
        generator = np.random.default_rng(seed)
        passes = ESTIMATORS[method](classifier.probabilities(features), task.labels, draws, generator)
        fisher = diagonal_fisher(task, probe, classifier, passes, batch_size=batch_size, report=report)
    return TaskEmbedding(
        fisher=fisher.astype(np.float32),
        layers=tuple(Layer(name, layer.weight.shape[0]) for name, layer in probe.layers.items()),
        probe=probe.fingerprint,
        probe_name=probe.name,
        method=method,
        num_samples=len(task),
        classes=task.class_names,
        classifier=classifier,
        task=task.name,
        unmeasured=probe.unmeasured,
        unreadable=task.unreadable,
    )


def extract_features(
    task: Task, probe: Probe, *, batch_size: int, report: Report
) -> tuple[Task, npt.NDArray[np.float32]]:
    """The task without its unreadable images, and the features `(N, d)` of the others."""
    rows: list[torch.Tensor] = []
    bad: dict[int, str] = {}
    for start, inputs, failures in task.batches(probe.transform, batch_size):
        bad |= {start + offset: name for offset, name in failures.items()}
        if len(inputs):
            rows.append(probe.features(inputs).float().cpu())
        report("Extracting features", min(start + batch_size, len(task)), len(task))
    return task.without(bad), torch.cat(rows).numpy()
