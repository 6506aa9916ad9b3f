"""The diagonal Fisher of a probe and a classifier, averaged inside each filter.

    F = E_x E_{y ~ p(y|x)} [ (d log p(y|x) / dw)^2 ]        (Achille et al. 2019, equation 1)

over the weights of every convolution and linear layer before the classifier.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional as F

from task2vec.classifier import Classifier
from task2vec.fisher.likelihood import Likelihood, likelihood_of
from task2vec.fisher.per_sample import SquaredGradients
from task2vec.inputs import ProbeInputs
from task2vec.progress import Report
from task2vec.tasks.labels import among_present

Scores = Callable[[Tensor, Tensor], Iterator[Tensor]]
"""From probabilities `(B, C)` and the numbers of the images `(B,)` to gradients of the loss by the logits `(B, C)`, one
backward pass for each, in float64."""


@dataclasses.dataclass(frozen=True)
class Shard:
    """Some images of a task.

    Attributes:
        numbers: int64 `(n,)`, theirs among all images of the task.
        labels: The labels of all images of the task, `(N,)` or `(N, C)`.
    """

    numbers: npt.NDArray[np.int64]
    labels: npt.NDArray[np.int64]


class DiagonalFisher:
    """Measures mean squared gradients of one task under one probe.

    Classes that no image of the task has play no part: the Fisher is that of the task without them.

    Args:
        inputs: The task's images on their way into the probe.
        classifier: The head on the probe's features.
        batch_size: Images at once.
        dtype: What to compute in; where it is a half precision, sums are still taken in float32.
        report: Told how far it is.
        shard: Which images of a larger task `inputs` holds. What is measured is then their share of that task's mean:
            the shares of all shards add up to it.
    """

    def __init__(
        self,
        inputs: ProbeInputs,
        classifier: Classifier,
        *,
        batch_size: int,
        dtype: torch.dtype,
        report: Report,
        shard: Shard | None = None,
    ) -> None:
        self.inputs = inputs
        self.batch_size = batch_size
        self.report = report
        self.layers = inputs.layers
        own = inputs.task.labels
        shard = shard or Shard(np.arange(len(own)), own)
        self._numbers = torch.from_numpy(shard.numbers)
        labels, present = among_present(shard.labels)
        self.labels = torch.from_numpy(labels)
        self.likelihood: Likelihood = likelihood_of(self.labels)
        self._device, self._dtype = inputs.probe.device, dtype
        exact_type = torch.promote_types(dtype, torch.float32)
        self._weight = torch.as_tensor(classifier.weight[present], device=self._device, dtype=exact_type)
        self._bias = torch.as_tensor(classifier.bias[present], device=self._device, dtype=exact_type)

    @property
    def num_images(self) -> int:
        """How many images the task has, whether or not they are all here."""
        return len(self.labels)

    @property
    def num_classes(self) -> int:
        """How many classes have an image."""
        return len(self._bias)

    def mean_squares(
        self,
        scores: Scores,
        images: npt.NDArray[np.int64] | None = None,
        around_batch: Callable[[], AbstractContextManager[object]] = nullcontext,
        largest_batch: int | None = None,
    ) -> npt.NDArray[np.float64]:
        """Mean squared gradients, float64 `(D,)`.

        The vector-Jacobian product of every score with the weights is squared, summed over the scores of an image,
        and averaged over the images and over the weights of each filter. Of a shard, the sum over its images is divided
        by how many the whole task has.

        Args:
            scores: Which gradients to take.
            images: Numbers of the images; all of them if not given. They cannot be chosen of a shard.
            around_batch: A context to compute each batch in.
            largest_batch: At most so many images at once, where that is fewer than otherwise.
        """
        batch_size = min(self.batch_size, largest_batch or self.batch_size)
        count = self.num_images if images is None else len(images)
        images = np.arange(len(self._numbers)) if images is None else images
        precise = torch.float32 if self._device.type == "mps" else torch.float64  # all that Apple's GPUs have
        totals = {n: torch.zeros(len(m.weight), dtype=precise, device=self._device) for n, m in self.layers.items()}
        done = 0
        with self.inputs.feature_tap() as features:
            for places, inputs in self.inputs.batches(images, batch_size):
                recorder = SquaredGradients(self.layers, len(inputs))
                with around_batch():
                    with torch.enable_grad(), recorder.recording(), self._precision():
                        taken = features(inputs)
                    logits = F.linear(taken.to(self._weight.dtype), self._weight, self._bias)
                    probabilities = self.likelihood.probabilities(logits.detach().cpu().double())
                    for score, is_last in _with_last(scores(probabilities, self._numbers[places])):
                        squares = recorder.of(logits, score.to(logits), keep_graph=not is_last)
                        for name, values in squares.items():
                            totals[name] += values.sum(dim=0, dtype=precise)
                done += len(inputs)
                self.report("Measuring the Fisher", done, len(images))
        return torch.cat(list(totals.values())).cpu().double().numpy() / count

    def _precision(self) -> AbstractContextManager[object]:
        reduced = self._dtype in (torch.bfloat16, torch.float16)
        return torch.autocast(self._device.type, self._dtype) if reduced else nullcontext()


def _with_last(values: Iterator[Tensor]) -> Iterator[tuple[Tensor, bool]]:
    """Each value, and whether it is the last one."""
    held = next(values)
    for value in values:
        yield held, False
        held = value
    yield held, True
