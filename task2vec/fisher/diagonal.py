"""The diagonal Fisher of a probe and a classifier, averaged inside each filter.

    F = E_x E_{y ~ p(y|x)} [ (d log p(y|x) / dw)^2 ]        (Achille et al. 2019, equation 1)

over the weights of every convolution and linear layer before the classifier.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from torch.nn import functional as F

from task2vec.classifier import Classifier
from task2vec.fisher.per_sample import SquaredGradients
from task2vec.fisher.registry import LabelPasses
from task2vec.probe import Probe
from task2vec.progress import Report
from task2vec.task import Task


def diagonal_fisher(
    task: Task, probe: Probe, classifier: Classifier, passes: LabelPasses, *, batch_size: int, report: Report
) -> npt.NDArray[np.float64]:
    """Mean over the images of the weighted squared gradients at the labels of `passes`, `(D,)`, in float64."""
    device, dtype = probe.device, probe.dtype
    weight = torch.as_tensor(classifier.weight, device=device, dtype=dtype)
    bias = torch.as_tensor(classifier.bias, device=device, dtype=dtype)
    totals = {name: torch.zeros(layer.weight.shape[0], dtype=torch.float64) for name, layer in probe.layers.items()}
    for start, inputs, _ in task.batches(probe.transform, batch_size):
        window = slice(start, start + len(inputs))
        labels = torch.as_tensor(passes.labels[:, window], device=device)
        weights = torch.as_tensor(passes.weights[:, window], device=device, dtype=dtype)
        recorder = SquaredGradients(probe.layers, len(inputs))
        with torch.enable_grad(), probe.feature_tap() as features, recorder.recording():
            logits = F.linear(features(inputs.to(device, dtype)), weight, bias)
        for k in range(len(labels)):
            # A factor of sqrt(weight) on each sample's loss is a factor of weight on its squared gradients.
            loss = (F.cross_entropy(logits, labels[k], reduction="none") * weights[k].sqrt()).sum()
            for name, squares in recorder.of(loss, keep_graph=k + 1 < len(labels)).items():
                totals[name] += squares.sum(dim=0, dtype=torch.float64).cpu()
        report("Measuring the Fisher", window.stop, len(task))
    return torch.cat(list(totals.values())).numpy() / len(task)
