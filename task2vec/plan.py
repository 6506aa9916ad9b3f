"""What embedding a task takes, decided and checked before anything is computed, and its steps.

`embed` runs it; `task2vec.shards` takes some of them for a part of the images at a time.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch

from task2vec.classifier import Classifier, cross_validated_accuracy, fit_classifier
from task2vec.compute import Compute
from task2vec.embedding import Layer, TaskEmbedding
from task2vec.errors import Task2VecError, TaskError
from task2vec.fisher import ESTIMATORS, DiagonalFisher, Estimate, Settings, Shard, VariationalConfig
from task2vec.inputs import ProbeInputs, choose_batch_size
from task2vec.probe import Probe
from task2vec.progress import Report
from task2vec.tasks import Task
from task2vec.thumbnails import thumbnails_of

# Chosen by how often the halves of a task find each other: docs/benchmarks.md, "Meaning".
DEFAULT_METHOD = "montecarlo"
DEFAULT_L2 = 1.0
DEFAULT_MAX_SAMPLES = 10_000


@dataclasses.dataclass(frozen=True)
class Plan:
    """The images to measure and how to measure them; it can be pickled. All settings are those of `embed`.

    Attributes:
        task: The images that are measured.
        num_images: How many the task had before `max_samples` were drawn.
    """

    task: Task
    num_images: int
    method: str
    draws: int
    l2: float
    variational: VariationalConfig
    from_layer: str | None
    batch_size: int | Literal["auto"]
    compute: Compute
    dtype: torch.dtype | None
    seed: int
    thumbnails: bool

    @classmethod
    def of(
        cls,
        task: Task | str | Path,
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
    ) -> Plan:
        """The plan that arguments of `embed` make.

        Raises:
            TaskError: all images are of one class, or `max_samples` cannot show the classes.
            Task2VecError: an unknown method or a setting out of range.
        """
        if method not in ESTIMATORS:
            raise Task2VecError(f"there is no estimator {method!r}; choose from {', '.join(sorted(ESTIMATORS))}")
        if draws < 1 or l2 <= 0 or (batch_size != "auto" and batch_size < 1):
            raise Task2VecError(f"draws={draws}, batch_size={batch_size} and l2={l2} must all be above 0")
        if seed < 0:
            raise Task2VecError(f"seed={seed} must be a whole number from 0 on")
        if max_samples is not None and max_samples < 2:
            raise Task2VecError(f"max_samples={max_samples} must be at least 2: one image tells no classes apart")
        if not isinstance(task, Task):
            task = Task.from_folder(task)
        drawn = task.learnable().subsample(max_samples, seed=seed)
        if not (drawn.labels != drawn.labels[0]).any():
            raise TaskError(f"the {max_samples} images drawn of {task.name!r} have the same labels; raise max_samples")
        return cls(
            task=drawn,
            num_images=len(task),
            method=method,
            draws=draws,
            l2=l2,
            variational=variational or VariationalConfig(),
            from_layer=from_layer,
            batch_size=batch_size,
            compute=compute or Compute(),
            dtype=dtype,
            seed=seed,
            thumbnails=thumbnails,
        )

    def run(self, probe: Probe, report: Report) -> TaskEmbedding:
        """All steps, one after the other."""
        probe = self.placed(probe)
        inputs = self.inputs(self.task, probe, report)
        report("Fitting the classifier", 0, 1)
        classifier = self.fit(inputs.features, inputs.task)
        report("Fitting the classifier", 1, 1)
        estimate = self.estimate(inputs, classifier, report)
        return self.embedding(inputs.task, probe, layers_of(inputs), inputs.unmeasured, classifier, estimate)

    def placed(self, probe: Probe) -> Probe:
        """The probe where it computes, and of the type that it computes in."""
        number = self._computed_in(probe)
        device = self.compute.device_for(probe.device)
        return probe.to(device, number if number in (torch.float32, torch.float64) else None)

    def inputs(self, images: Task, probe: Probe, report: Report) -> ProbeInputs:
        """Images on their way into the placed probe, with their features."""
        return ProbeInputs(
            images,
            probe,
            from_layer=self.from_layer,
            batch_size=choose_batch_size(images, probe) if self.batch_size == "auto" else self.batch_size,
            report=report,
            workers=self.compute.workers,
        )

    def fit(self, features: npt.NDArray[np.float32], task: Task) -> Classifier:
        """The classifier on the features `(N, d)` of all readable images."""
        classifier = fit_classifier(features, task.labels, task.num_classes, l2=self.l2)
        unseen = cross_validated_accuracy(features, task.labels, task.num_classes, l2=self.l2, seed=self.seed)
        return dataclasses.replace(classifier, cross_validated=unseen)

    def estimate(
        self, inputs: ProbeInputs, classifier: Classifier, report: Report, shard: Shard | None = None
    ) -> Estimate:
        """The Fisher, or a shard's share of it: a shard draws for all images of the task, and takes its own."""
        dtype = self._computed_in(inputs.probe)
        fisher = DiagonalFisher(
            inputs, classifier, batch_size=inputs.batch_size, dtype=dtype, report=report, shard=shard
        )
        settings = Settings(self.draws, np.random.default_rng(self.seed), self.variational)
        return ESTIMATORS[self.method](fisher, settings)

    def embedding(
        self,
        task: Task,
        probe: Probe,
        layers: tuple[Layer, ...],
        unmeasured: tuple[str, ...],
        classifier: Classifier,
        estimate: Estimate,
    ) -> TaskEmbedding:
        """What was found, put together; `task` holds the readable images."""
        return TaskEmbedding(
            fisher=estimate.fisher.astype(np.float32),
            layers=layers,
            probe=probe.fingerprint,
            probe_name=probe.name,
            method=self.method,
            num_samples=len(task),
            classes=task.class_names,
            classifier=classifier,
            task=task.name,
            num_images=self.num_images,
            multi_label=task.multi_label,
            unmeasured=probe.unmeasured + unmeasured,
            unreadable=task.unreadable,
            trivial=None if estimate.trivial is None else estimate.trivial.astype(np.float32),
            convergence=estimate.convergence,
            thumbnails=thumbnails_of(task, seed=self.seed) if self.thumbnails else (),
        )

    def _computed_in(self, probe: Probe) -> torch.dtype:
        return self.dtype or self.compute.autocast_dtype or probe.dtype


def layers_of(inputs: ProbeInputs) -> tuple[Layer, ...]:
    """The measured layers, with how many filters each has."""
    return tuple(Layer(name, len(layer.weight)) for name, layer in inputs.layers.items())
