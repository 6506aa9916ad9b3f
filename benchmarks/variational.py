"""Does the variational estimator forget its start and solve its objective, and does the public schedule come near?

python benchmarks/variational.py datasets/mnist.zip datasets/gtsrb.zip ...
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, NamedTuple

import numpy as np
import torch
import typer
from page import table, write_section
from scipy.stats import spearmanr
from torch import Tensor
from torch.nn import functional as F

import task2vec
from task2vec import Task, VariationalConfig
from task2vec.classifier import Classifier, fit_classifier
from task2vec.fisher import DiagonalFisher, Settings
from task2vec.fisher.variational import prior_variances, variational
from task2vec.inputs import ProbeInputs
from task2vec.plan import DEFAULT_L2
from task2vec.progress import silent

IMAGES = 400
STARTS = (1e-3, 10.0)  # variances, as multiples of the prior's: 10,000 apart
PASSES = 5
DRAWS = 30  # pairs of opposite draws of the weights, for the gradient of the objective
ADAM_STEPS, ADAM_RATE = 156, 0.01  # the public implementation's schedule

Array = np.ndarray


class Problem(NamedTuple):
    """A task ready to be measured, with its classifier."""

    inputs: ProbeInputs
    classifier: Classifier
    fisher: DiagonalFisher

    @property
    def weights(self) -> list[Tensor]:
        """The measured layers' weights."""
        return [layer.weight for layer in self.fisher.layers.values()]

    @property
    def sizes(self) -> Array:
        """Weights of each filter, `(D,)`."""
        return np.concatenate([np.full(len(w), w[0].numel()) for w in self.weights])

    def logits(self, images: Tensor) -> Tensor:
        """Logits of images by their numbers, from weights as they are at the moment."""
        weight, bias = torch.from_numpy(self.classifier.weight), torch.from_numpy(self.classifier.bias)
        (_, inputs), *_ = self.inputs.batches(images.numpy(), len(images))
        with self.inputs.feature_tap() as features:
            return F.linear(features(inputs), weight, bias)


def problem(archive: Path) -> Problem:
    """400 images of a task under the bundled probe."""
    task = Task.from_folder(archive).subsample(IMAGES)
    inputs = ProbeInputs(task, task2vec.load_probe(), from_layer=None, batch_size=32, report=silent)
    classifier = fit_classifier(inputs.features, inputs.task.labels, task.num_classes, l2=DEFAULT_L2)
    fisher = DiagonalFisher(inputs, classifier, batch_size=32, dtype=torch.float32, report=silent)
    return Problem(inputs, classifier, fisher)


def solved(given: Problem, seed: int, config: VariationalConfig) -> tuple[Array, float]:
    """Log variances `(D,)`, and beta."""
    estimate = variational(given.fisher, Settings(1, np.random.default_rng(seed), config))
    assert estimate.convergence is not None
    return np.log(estimate.convergence.beta / estimate.fisher), estimate.convergence.beta


def distance_to(found: Array, expected: Array) -> tuple[float, float]:
    """Spearman's correlation, and the root mean square difference."""
    return float(spearmanr(found, expected)[0]), float(np.sqrt(np.mean((found - expected) ** 2)))


@contextmanager
def weights_at(weights: list[Tensor], values: list[Tensor]) -> Iterator[None]:
    """Inside the context, the weights have other values and ask for gradients."""
    clean = [weight.data for weight in weights]
    try:
        for weight, value in zip(weights, values, strict=True):
            weight.requires_grad_(True)
            weight.data = value
        yield
    finally:
        for weight, value in zip(weights, clean, strict=True):
            weight.data = value
            weight.requires_grad_(False)


def noise_of(weights: list[Tensor], variances: Array, generator: torch.Generator) -> list[Tensor]:
    """Gaussian noise for each weight."""
    split = np.split(np.sqrt(variances), np.cumsum([len(w) for w in weights])[:-1])
    return [
        torch.randn(w.shape, generator=generator) * torch.from_numpy(d).float().view(-1, *[1] * (w.ndim - 1))
        for d, w in zip(split, weights, strict=True)
    ]


def loss_gradient(given: Problem, log_variances: Array, targets: Tensor, draws: int, seed: int) -> Array:
    """The cross-entropy's gradient by each log variance, `(draws, D)`, by the reparameterisation w0 +- noise."""
    weights, generator = given.weights, torch.Generator().manual_seed(seed)
    rows = []
    for _ in range(draws):
        noise = noise_of(weights, np.exp(log_variances), generator)
        row = np.zeros(len(log_variances))
        for sign in (1, -1):
            with weights_at(weights, [w.data + sign * n for w, n in zip(weights, noise, strict=True)]):
                for images in torch.arange(len(targets)).split(50):
                    with torch.enable_grad():
                        loss = -(targets[images] * given.logits(images).log_softmax(dim=1)).sum() / len(targets)
                    gradients = torch.autograd.grad(loss, weights)
                    each = [(0.5 * sign * n * g).flatten(1).sum(1) for n, g in zip(noise, gradients, strict=True)]
                    row += torch.cat(each).double().numpy() / 2
        rows.append(row)
    return np.array(rows)


def stationarity(given: Problem, log_variances: Array, beta: float, targets: Tensor) -> tuple[float, float]:
    """The loss's pull against the KL term's, summed over filters, and the root mean square of filters' z-scores."""
    prior = prior_variances(given.fisher.layers, VariationalConfig().prior_scale)
    divergence = beta / 2 * given.sizes * (1 - np.exp(log_variances) / prior)
    pulls = loss_gradient(given, log_variances, targets, DRAWS, seed=1)
    mean, error = pulls.mean(axis=0), pulls.std(axis=0, ddof=1) / DRAWS**0.5
    alive = error > 0
    z = (mean - divergence)[alive] / error[alive]
    return float(mean.sum() / divergence.sum()), float(np.sqrt(np.mean(z**2)))


def public_schedule(given: Problem, beta: float, seed: int) -> Array:
    """Log variances by 156 Adam steps from the weights' own variance, with a learned lambda for each layer.

    Written from the public implementation's description: batches of 64 with the dataset's labels.
    """
    weights, generator = given.weights, torch.Generator().manual_seed(seed)
    own = [w.data.flatten(1).var(dim=1).clamp_min(1e-12).log() for w in weights]
    parameters = [v.clone().requires_grad_(True) for v in own]
    scales = [v.mean().clone().requires_grad_(True) for v in own]  # log lambda^2
    optimizer = torch.optim.Adam([*parameters, *scales], lr=ADAM_RATE)
    labels = torch.from_numpy(given.inputs.task.labels)
    for _ in range(ADAM_STEPS):
        images = torch.randint(len(labels), (64,), generator=generator)
        noise = noise_of(weights, np.exp(torch.cat(parameters).detach().double().numpy()), generator)
        with weights_at(weights, [w.data + n for w, n in zip(weights, noise, strict=True)]), torch.enable_grad():
            gradients = torch.autograd.grad(F.cross_entropy(given.logits(images), labels[images]), weights)
        optimizer.zero_grad()
        with torch.enable_grad():
            ratios = [p - s for p, s in zip(parameters, scales, strict=True)]
            kl = sum(0.5 * w[0].numel() * (r.exp() - 1 - r).sum() for w, r in zip(weights, ratios, strict=True))
            (beta * kl).backward()
        for p, n, g in zip(parameters, noise, gradients, strict=True):
            p.grad += 0.5 * (n * g).flatten(1).sum(1)
        optimizer.step()
    return torch.cat(parameters).detach().double().numpy()


def main(archives: Annotated[list[Path], typer.Argument(help="the tasks' zips")]) -> None:
    """Measure and write the section of docs/benchmarks.md."""
    agreement, stationary, schedule = [], [], []
    for archive in archives:
        given = problem(archive)
        name = archive.stem
        runs = [
            solved(given, seed, VariationalConfig(start=start, max_passes=PASSES, images_per_pass=IMAGES))[0]
            for seed, start in enumerate(STARTS)
        ]
        converged, beta = solved(given, 2, VariationalConfig(tolerance=0.02, max_passes=30, images_per_pass=IMAGES))
        rank, difference = distance_to(*runs)
        agreement.append([name, f"{rank:.3f}", f"{difference:.3f}"])
        own = torch.from_numpy(given.inputs.task.labels)
        with torch.no_grad():
            predicted = given.logits(torch.arange(len(own))).softmax(dim=1)
        observed = F.one_hot(own, predicted.shape[1]).float()
        found = [stationarity(given, converged, beta, targets) for targets in (predicted, observed)]
        stationary.append([name, *(f"{value:.2f}" for pair in found for value in pair)])
        theirs, again = (public_schedule(given, beta, seed) for seed in (0, 1))
        start = np.log(np.concatenate([w.data.flatten(1).var(dim=1).clamp_min(1e-12).numpy() for w in given.weights]))
        rank, difference = distance_to(theirs, converged)
        schedule.append(
            [name, f"{rank:.2f}", f"{difference:.1f}", f"{distance_to(theirs, start)[0]:.3f}",
             f"{distance_to(theirs, again)[0]:.3f}"]
        )  # fmt: skip
        typer.echo(f"{agreement[-1]} {stationary[-1]} {schedule[-1]}")
    body = f"""{IMAGES} images of each task under the bundled probe.

**The start is forgotten.** {PASSES} passes from variances {STARTS[0]:g} and {STARTS[1]:g} times the prior's, with
independent noise and signs: Spearman's correlation of the log variances and their root mean square difference, most
of which lies in filters that few images make active.

{table(["", "Spearman", "difference"], agreement)}

**The objective is solved.** The gradient of the cross-entropy by a filter's log variance, by {DRAWS} pairs of opposite
draws of all weights, against the KL term's, which it should cancel: the ratio of both, summed over the filters (1 at a
stationary point), and the root mean square of the filters' differences in standard errors (1 if they are noise). The
objective's expectation over labels is that of the Fisher: under the model's own predictions. With the dataset's labels
instead, the last columns, the residuals of a classifier that does not fit its training labels add curvature of either
sign, for which no Fisher can stand.

{table(["", "ratio", "z", "ratio, dataset's labels", "z, dataset's labels"], stationary)}

**The public schedule stays at its start.** {ADAM_STEPS} Adam steps of {ADAM_RATE} on the log variances from the
weights' own variance, with a learned lambda for each layer and the same beta: Spearman's correlation and root mean
square difference with the converged log variances, and its correlations with its own start and with another seed.

{table(["", "with the solution", "difference", "with its start", "with another seed"], schedule)}"""
    names = " ".join(archive.name for archive in archives)
    write_section("variational", "Variational", f"python benchmarks/variational.py {names}", body)


if __name__ == "__main__":
    typer.run(main)
