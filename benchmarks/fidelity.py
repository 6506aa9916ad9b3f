"""How soon is an embedding within 5% of the exact one? Against the public implementation's procedure.

python benchmarks/fidelity.py datasets/cifar10.zip
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer
from matplotlib.figure import Figure
from page import DOCS, table, write_section
from torch import nn
from torch.nn import functional as F

import task2vec
from task2vec import Probe, Task
from task2vec.classifier import Classifier, fit_classifier
from task2vec.fisher import DiagonalFisher
from task2vec.fisher.hutchinson import hutchinson
from task2vec.fisher.montecarlo import montecarlo
from task2vec.fisher.registry import Estimate, Settings
from task2vec.inputs import ProbeInputs
from task2vec.plan import DEFAULT_L2
from task2vec.progress import silent
from task2vec.style import QUIET, in_style

IMAGES = 1000
GOAL = 0.05

# The public implementation: 10 epochs of Adam for the classifier, 10,000 class-balanced images in batches of 64, each
# batch's mean gradient squared.
EPOCHS, LEARNING_RATE, WEIGHT_DECAY = 10, 4e-4, 1e-4
BATCH, RESAMPLED = 64, 10_000
CONTINUED = 4 * RESAMPLED  # run on beyond its own end, to see when it gets there

Array = np.ndarray


class Timer:
    """Seconds of work, without what is done to judge it."""

    def __init__(self) -> None:
        self.total = 0.0

    def __enter__(self) -> Timer:
        self._start = time.perf_counter()
        return self

    def __exit__(self, *_: object) -> None:
        self.total += time.perf_counter() - self._start


def ours(task: Task, probe: Probe, estimator: str) -> Iterator[tuple[float, Array, Classifier]]:
    """Seconds so far, and the mean of ever more passes of one sign or label an image."""
    timer, found = Timer(), []
    with timer:
        inputs = ProbeInputs(task, probe, from_layer=None, batch_size=64, report=silent)
        classifier = fit_classifier(inputs.features, inputs.task.labels, task.num_classes, l2=DEFAULT_L2)
        fisher = DiagonalFisher(inputs, classifier, batch_size=64, dtype=torch.float32, report=silent)
    for seed in itertools.count():
        with timer:
            measure = {"hutchinson": hutchinson, "montecarlo": montecarlo}[estimator]
            found.append(measure(fisher, Settings(1, np.random.default_rng(seed))).fisher)
        yield timer.total, np.mean(found, axis=0), classifier


def reference(task: Task, probe: Probe, classifier: Classifier | None) -> Iterator[tuple[float, Array, Classifier]]:
    """The public implementation's procedure, written from its description; squares of the gradients of batch means.

    With a classifier, that one is used instead of its own, so that only the Fisher differs.
    """
    timer = Timer()
    generator = torch.Generator().manual_seed(0)
    weights = [layer.weight for layer in probe.layers.values()]
    with timer:
        inputs = ProbeInputs(task, probe, from_layer=None, batch_size=64, report=silent)
        if classifier is None:
            classifier = adam_classifier(inputs.features, inputs.task.labels, task.num_classes, generator)
        weight, bias = torch.from_numpy(classifier.weight), torch.from_numpy(classifier.bias)
        counts = np.bincount(inputs.task.labels)
        balance = torch.from_numpy(1 / counts[inputs.task.labels])
        order = torch.multinomial(balance, CONTINUED, replacement=True, generator=generator).numpy()
    for w in weights:
        w.requires_grad_(True)
    total, batches = np.zeros(probe.dimension), 0
    try:
        for _, images in inputs.batches(order, BATCH):
            with timer:
                with probe.feature_tap() as features, torch.enable_grad():
                    logits = F.linear(features(images), weight, bias)
                    labels = torch.multinomial(logits.detach().softmax(dim=1), 1, generator=generator)[:, 0]
                    gradients = torch.autograd.grad(F.cross_entropy(logits, labels), weights)
                total += torch.cat([g.square().flatten(1).mean(dim=1) for g in gradients]).double().numpy()
                batches += 1
            yield timer.total, total / batches, classifier
    finally:  # whoever stops reading early gets a frozen probe back, too
        for w in weights:
            w.requires_grad_(False)


def adam_classifier(features: Array, labels: Array, num_classes: int, generator: torch.Generator) -> Classifier:
    """A linear head by Adam, as the public implementation fits it."""
    x, y = torch.from_numpy(features), torch.from_numpy(labels)
    head = nn.Linear(x.shape[1], num_classes)
    with torch.no_grad():
        head.weight.normal_(std=0.01, generator=generator)
        head.bias.zero_()
    optimizer = torch.optim.Adam(head.parameters(), lr=LEARNING_RATE, weight_decay=WEIGHT_DECAY)
    for _ in range(EPOCHS):
        for batch in torch.randperm(len(x), generator=generator).split(BATCH):
            optimizer.zero_grad()
            F.cross_entropy(head(x[batch]), y[batch]).backward()
            optimizer.step()
    weight, bias = head.weight.detach().numpy(), head.bias.detach().numpy()
    accuracy = float((head(x).argmax(dim=1) == y).float().mean())
    return Classifier(weight, bias, WEIGHT_DECAY, accuracy)


def exact(task: Task, probe: Probe, classifier: Classifier) -> Array:
    """The Fisher under a classifier, by all passes."""
    inputs = ProbeInputs(task, probe, from_layer=None, batch_size=64, report=silent)
    fisher = DiagonalFisher(inputs, classifier, batch_size=64, dtype=torch.float32, report=silent)
    estimate: Estimate = task2vec.ESTIMATORS["exact"](fisher, Settings(1, np.random.default_rng(0)))
    return estimate.fisher


def error(found: Array, expected: Array) -> float:
    """Relative error of the vector; of its direction and size."""
    return float(np.linalg.norm(found - expected) / np.linalg.norm(expected))


def direction_error(found: Array, expected: Array) -> float:
    """Relative error after the best common factor has been taken out."""
    return error(found * (found @ expected) / (found @ found), expected)


def curve(stream: Iterator[tuple[float, Array, Classifier]], expected: Array, steps: int) -> Array:
    """Rows of seconds, error, and error of the direction: of `steps`, and of more until the direction is right."""
    rows: list[tuple[float, float, float]] = []
    for seconds, found, _ in stream:
        rows.append((seconds, error(found, expected), direction_error(found, expected)))
        if len(rows) >= steps and rows[-1][2] <= GOAL:
            break
    return np.array(rows)


def main(archive: Annotated[Path, typer.Argument(help="a task's zip")]) -> None:
    """Measure both on one task and write the section of docs/benchmarks.md."""
    probe = task2vec.load_probe()
    task = Task.from_folder(archive).subsample(IMAGES)
    ours_classifier = next(ours(task, probe, "hutchinson"))[2]
    their_classifier = next(reference(task, probe, None))[2]
    expected = exact(task, probe, ours_classifier)
    their_expected = exact(task, probe, their_classifier)
    batches = -(-RESAMPLED // BATCH)
    curves = {
        "hutchinson": curve(ours(task, probe, "hutchinson"), expected, 6),
        "montecarlo": curve(ours(task, probe, "montecarlo"), expected, 6),
        "batch means, its own classifier": curve(reference(task, probe, None), their_expected, batches),
        "batch means, our classifier": curve(reference(task, probe, ours_classifier), expected, batches),
    }
    _plot(curves).savefig(DOCS / "benchmarks-fidelity.png")
    rows = [[name, *_reached(values, batches)] for name, values in curves.items()]
    head = ["", "error", "error of the direction", "seconds", f"seconds to {GOAL:.0%}", f"to {GOAL:.0%} in direction"]
    ours_seconds, theirs = curves["hutchinson"], curves["batch means, its own classifier"]
    times = _seconds(theirs, 2) / _seconds(ours_seconds, 2)
    at_least = theirs[-1, 0] / _seconds(ours_seconds, 2)
    comparison = f"{times:.0f} times" if np.isfinite(times) else f"more than {at_least:.0f} times"
    body = f"""The embedding of {len(task)} images of `{task.name}` under the bundled probe: relative error against the
exact Fisher under the same classifier, and the seconds it took, decoding and classifier included. Ours are means of
passes, each with one sign or label an image. "Batch means" is the public implementation's procedure as it would be in
evaluation mode and over convolutions alone (the next section has the rest): a classifier by {EPOCHS} epochs of Adam,
{RESAMPLED:,} class-balanced resampled images in batches of {BATCH}, each batch's mean gradient squared. Here it is run
on beyond its end, to at most {CONTINUED:,} images.

{table(head, rows)}

The first three columns are at each procedure's end: six passes, and {RESAMPLED:,} images. The square of a batch's mean
gradient converges to something else, 1/{BATCH} of the Fisher: gradients at labels drawn from the model cancel in the
mean. Even when that factor is taken out, in the columns of the direction, a batch counts for no more than a single
image, and the way to {GOAL:.0%} takes {comparison} as long as `hutchinson` does.

![Error against seconds](benchmarks-fidelity.png)"""
    write_section("fidelity", "The same fidelity for less", f"python benchmarks/fidelity.py {archive.name}", body)


def _seconds(values: Array, column: int) -> float:
    """When the error of a column is within the goal and stays there; infinite if never."""
    outside = np.flatnonzero(values[:, column] > GOAL)
    first = 0 if not len(outside) else outside[-1] + 1
    return float(values[first, 0]) if first < len(values) else float("inf")


def _reached(values: Array, batches: int) -> list[str]:
    end = values[min(batches, len(values)) - 1] if len(values) > 6 else values[-1]
    seconds = [_seconds(values, column) for column in (1, 2)]
    return [
        f"{end[1]:.1%}",
        f"{end[2]:.1%}",
        f"{end[0]:.1f}",
        *(f"{s:.1f}" if np.isfinite(s) else f"not in {values[-1, 0]:.0f}" for s in seconds),
    ]


@in_style
def _plot(curves: dict[str, Array]) -> Figure:
    figure = Figure(figsize=(8, 5.2), layout="constrained")
    axes = figure.subplots()
    for number, (name, values) in enumerate(curves.items()):
        # Curves of many points have shapes here and there, each at other places: two that coincide are both seen.
        every = max(1, len(values) // 8)
        marks = {"markevery": (number * every // 4, every)}
        (line,) = axes.plot(values[:, 0], values[:, 1], label=name, **marks)
        if name.startswith("batch"):
            own = {"color": line.get_color(), "marker": line.get_marker(), "markerfacecolor": "white"}
            axes.plot(values[:, 0], values[:, 2], "--", label=f"{name}, direction alone", **own, **marks)
    axes.axhline(GOAL, color=QUIET, linewidth=1)
    axes.annotate(
        f"goal: {GOAL:.0%}", (0.01, GOAL), xycoords=("axes fraction", "data"), ha="left", va="bottom", color=QUIET
    )
    axes.set(xscale="log", yscale="log", xlabel="seconds", ylabel="relative error against the exact Fisher")
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.14), ncols=2)
    return figure


if __name__ == "__main__":
    typer.run(main)
