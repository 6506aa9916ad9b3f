"""Experts: adapters tuned on one task each, and what they are worth for the other tasks.

python benchmarks/experts.py train GRID EXPERTS       tune one adapter on all images of every task of a grid
python benchmarks/experts.py transfer GRID EXPERTS    every expert on 100 images of other tasks, and the cheap scores
python benchmarks/experts.py warm GRID EXPERTS        tuning on 100 images from an expert, beside tuning from scratch

All write beside the shipped library and go on where they were stopped; `task2vec evaluate` reads them.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer

import adapters
from adapters import AdapterConfig
from adapters.data import Batches, transform_of
from selection import Grid, TaskFilter
from selection.evidence.backbone import load_backbone
from selection.evidence.grid import GridTask
from selection.evidence.library import EXPERTS, WARM_STARTS, load_library
from selection.evidence.runner import VALIDATION_SHARE
from selection.recommendation.transferability import SCORES, Outputs
from task2vec import embed, load_probe
from task2vec.classifier import fit_classifier

EXPERT = AdapterConfig("ssf", weight_decay=1e-4)
TUNED = AdapterConfig("ssf", weight_decay=1e-4, epochs=20)
IMAGES = 100
L2 = 0.1  # of the classifier on an expert's features, the same that embeddings use
SEEDS = (0, 1)
RATES = (0.01, 0.003)

app = typer.Typer(add_completion=False, help=__doc__)
GridFile = Annotated[Path, typer.Argument(help="a grid file; its folder, sources and excluded tasks count")]
Experts = Annotated[Path, typer.Argument(help="where the tuned adapters lie")]


def whole_tasks(grid: Path, images: int | None) -> list[GridTask]:
    """The tasks of a grid without their parts, with so many training images."""
    found = Grid.from_file(grid)
    return list(Grid(found.folder, found.configs, found.exclude, images, sources=found.sources).tasks())


@app.command()
def train(grid: GridFile, experts: Experts) -> None:
    """Tune an expert on every task."""
    for task in whole_tasks(grid, None):
        out = experts / task.train.name
        if (out / "adapter.json").exists():
            continue
        model = load_backbone(adapters.DEFAULT_BACKBONE)
        learning, validation = task.train.split(VALIDATION_SHARE)
        adapters.attach(model, EXPERT, task.train.num_classes, seed=0)
        adapters.fit(model, learning, validation, autocast=torch.bfloat16, progress=False)
        adapters.save(model, out, class_names=task.train.class_names)
        typer.echo(task.train.name)


@app.command()
def transfer(grid: GridFile, experts: Experts) -> None:
    """A linear classifier on the frozen features of every expert from another source, for every target."""
    path = EXPERTS
    done = {(row["target"], row["expert"]) for row in rows_of(path)}
    sources = {task.train.name: task.source for task in whole_tasks(grid, None)}
    transform = transform_of(load_backbone(adapters.DEFAULT_BACKBONE))
    for task in whole_tasks(grid, IMAGES):
        target = task.train.name.split("@")[0]
        train, test = Batches(task.train, transform), Batches(task.test, transform)
        for expert in sources:
            if sources[expert] == task.source or (target, expert) in done:
                continue
            model = adapters.load(load_backbone(adapters.DEFAULT_BACKBONE), experts / expert)
            features, logits = outputs(model, train)
            classifier = fit_classifier(features, task.train.labels, task.train.num_classes, l2=L2)
            seen, _ = outputs(model, test)
            predicted = (seen @ classifier.weight.T + classifier.bias).argmax(axis=1)
            probabilities = np.exp(logits - logits.max(axis=1, keepdims=True))
            probabilities /= probabilities.sum(axis=1, keepdims=True)
            scores = {
                name: score(Outputs(features, probabilities, task.train.labels)) for name, score in SCORES.items()
            }
            accuracy = float((predicted == task.test.labels).mean())
            append(path, {"target": target, "expert": expert, "accuracy": accuracy} | scores)


@app.command()
def warm(grid: GridFile, experts: Experts) -> None:
    """Tune from the expert that the asymmetric distance names, and from scratch, at two learning rates."""
    path = WARM_STARTS
    done = {(row["target"], row["seed"], row["rate"]) for row in rows_of(path)}
    probe, library = load_probe(), load_library()
    tasks = whole_tasks(grid, IMAGES)
    for task in tasks:
        target = task.train.name.split("@")[0]
        embedding = embed(task.train, probe)
        same = {t.train.name.split("@")[0] for t in tasks if t.source == task.source}
        whole = [name for name in library.names() if (experts / name).exists() and name not in same]
        near = library.nearest(embedding, 1, distance="asymmetric", which=TaskFilter(names=list(whole)))[0]
        learning, validation = task.train.split(VALIDATION_SHARE)
        for rate, seed in product(RATES, SEEDS):
            if (target, seed, rate) in done:
                continue
            config = dataclasses.replace(TUNED, learning_rate=rate)
            accuracy = {}
            for name, start in (("cold", None), ("warm", experts / near.name)):
                model = load_backbone(adapters.DEFAULT_BACKBONE)
                adapters.attach(model, config, task.train.num_classes, seed=seed)
                adapters.fit(
                    model, learning, validation, init_from=start, seed=seed, autocast=torch.bfloat16, progress=False
                )
                accuracy[name] = adapters.evaluate(model, task.test, autocast=torch.bfloat16).accuracy
            append(
                path,
                {
                    "target": target,
                    "seed": seed,
                    "rate": rate,
                    "expert": near.name,
                    "distance": near.distance,
                    **accuracy,
                },
            )


@torch.no_grad()
def outputs(model: Any, batches: Batches) -> tuple[np.ndarray, np.ndarray]:
    """The classifier's inputs `(N, d)` and outputs `(N, K)`."""
    model.eval()
    features, logits = [], []
    for indices in torch.arange(len(batches)).split(128):
        pooled = model.forward_head(model.forward_features(batches.take(indices)[0]), pre_logits=True)
        features.append(pooled.double().numpy())
        logits.append(model.get_classifier()(pooled).double().numpy())
    return np.concatenate(features), np.concatenate(logits)


def rows_of(path: Path) -> Iterator[dict[str, Any]]:
    """The lines of a file of results, if there is one."""
    for line in path.read_text().splitlines() if path.exists() else ():
        yield json.loads(line)


def append(path: Path, row: dict[str, Any]) -> None:
    """Write a result at once."""
    path.parent.mkdir(exist_ok=True)
    with path.open("a") as file:
        file.write(json.dumps(row) + "\n")


if __name__ == "__main__":
    app()
