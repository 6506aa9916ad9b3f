"""What the public implementation's procedure measures: batch means, batch norms in training mode, their gains included.

python benchmarks/public_procedure.py datasets/cifar10.zip
"""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Annotated, NamedTuple

import numpy as np
import torch
import typer
from fidelity import BATCH, IMAGES, RESAMPLED, exact, ours
from page import table, write_section
from scipy.stats import spearmanr
from torch import nn
from torch.nn import functional as F

import task2vec
from task2vec import Probe, Task
from task2vec.classifier import Classifier
from task2vec.inputs import ProbeInputs
from task2vec.progress import silent

Array = np.ndarray


class Found(NamedTuple):
    """Squared gradients of batch means.

    Attributes:
        filters: Of convolutions and linear layers, as `TaskEmbedding.fisher` has them.
        gains: Of the batch norms' gains, which the public implementation takes for filters, too.
        drift: By how much a running mean changed at most, in its standard deviations.
    """

    filters: Array
    gains: Array
    drift: float


def batch_means(task: Task, probe: Probe, classifier: Classifier, *, training: bool) -> Found:
    """Squares of the gradients of batch means at labels drawn from the model, over class-balanced images.

    Args:
        task: The images.
        probe: The network; a copy of it is used.
        classifier: The head.
        training: Whether batch norms use each batch's own statistics and go on adapting their running ones.
    """
    generator = torch.Generator().manual_seed(0)
    inputs = ProbeInputs(task, probe, from_layer=None, batch_size=64, report=silent)
    counts = np.bincount(inputs.task.labels)
    order = torch.multinomial(torch.from_numpy(1 / counts[inputs.task.labels]), RESAMPLED, True, generator=generator)
    network = Probe(copy.deepcopy(probe.module), probe.classifier, probe.transform)
    network.module.train(training)
    norms = [m for m in network.module.modules() if isinstance(m, nn.BatchNorm2d)]
    before = [(m.running_mean.clone(), m.running_var.sqrt()) for m in norms]
    weights = [layer.weight for layer in network.layers.values()] + [norm.weight for norm in norms]
    for weight in weights:
        weight.requires_grad_(True)
    head, bias = torch.from_numpy(classifier.weight), torch.from_numpy(classifier.bias)
    totals = [torch.zeros(len(weight), dtype=torch.float64) for weight in weights]
    batches = 0
    for _, images in inputs.batches(order.numpy(), BATCH):
        with network.feature_tap() as features, torch.enable_grad():
            logits = F.linear(features(images), head, bias)
            labels = torch.multinomial(logits.detach().softmax(dim=1), 1, generator=generator)[:, 0]
            gradients = torch.autograd.grad(F.cross_entropy(logits, labels), weights)
        for total, gradient in zip(totals, gradients, strict=True):
            total += gradient.square().flatten(1).mean(dim=1) if gradient.ndim > 1 else gradient.square()
        batches += 1
    found = [(total / batches).numpy() for total in totals]
    drift = max(
        float(((m.running_mean - mean).abs() / std).max()) for m, (mean, std) in zip(norms, before, strict=True)
    )
    return Found(np.concatenate(found[: len(network.layers)]), np.concatenate(found[len(network.layers) :]), drift)


def main(archive: Annotated[Path, typer.Argument(help="a task's zip")]) -> None:
    """Measure both modes on one task and write the section of docs/benchmarks.md."""
    probe = task2vec.load_probe()
    task = Task.from_folder(archive).subsample(IMAGES)
    classifier = next(ours(task, probe, "hutchinson"))[2]
    expected = exact(task, probe, classifier)
    rows = []
    for name, training in (("evaluation mode", False), ("training mode", True)):
        found = batch_means(task, probe, classifier, training=training)
        rows.append(
            [
                name,
                f"{spearmanr(found.filters, expected)[0]:.3f}",
                f"{found.filters.sum() / expected.sum():.4f}",
                f"{len(found.gains)} of {len(found.gains) + len(found.filters)}",
                f"{found.gains.sum() / (found.gains.sum() + found.filters.sum()):.0%}",
                f"{found.drift:.2f}",
            ]
        )
    head = ["batch norms in", "rank correlation", "size", "entries that are gains", "their share of the sum", "drift"]
    write_section(
        "public",
        "What the public procedure measures",
        f"python benchmarks/public_procedure.py {archive.name}",
        f"""The public implementation leaves the network in training mode, squares the gradient of each batch's mean,
and counts the gains of batch norms as filters. Here is what each of these does, on {len(task)} images of `{task.name}`
under the bundled probe and our classifier, with {RESAMPLED:,} class-balanced images in batches of {BATCH}. Rank
correlation and size (ratio of the sums) compare the convolutions' entries with the exact Fisher, which is taken per
image and in evaluation mode. Drift is the largest change of a running mean, in standard deviations.

{table(head, rows)}

Squaring batch means makes the size 1/{BATCH} of the Fisher's. In training mode the images of a batch share their
statistics, so that what is measured depends on who is in the batch, and the probe is another one afterwards.""",
    )


if __name__ == "__main__":
    typer.run(main)
