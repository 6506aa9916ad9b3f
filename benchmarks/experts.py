"""Experts: adapters tuned on one task each, and what they are worth for tasks of other sources.

python benchmarks/experts.py train DATASETS WEIGHTS EXPERTS       one adapter on 500 images of every expert's task
python benchmarks/experts.py transfer DATASETS WEIGHTS EXPERTS    every expert on 100 images of tasks of other sources
python benchmarks/experts.py warm DATASETS WEIGHTS EXPERTS        tuning on 100 images from an expert and from scratch

All append to files in `benchmarks/results` and go on where they were stopped. `evaluation_page.py` reads them;
`library.py starts` ships what `warm` found, by which `recommend` decides whether to start from an adapter. What is
shipped is of the bundled backbone until all targets have been measured.
"""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable
from functools import partial
from itertools import chain, product, zip_longest
from pathlib import Path
from typing import Annotated, Any

import json_lines
import numpy as np
import torch
import typer
from evidence import Precision, one_core
from expert_choice import NO_EXPERT
from ground.tasks import GroundTask, file_name, ground
from ground.vit import batches_of, load_vit
from torch import nn

import adapters
import task2vec
from adapters import AdapterConfig
from adapters.data import Batches
from selection.recommendation.transferability import SCORES, Outputs
from task2vec import TaskEmbedding, distance_matrix
from task2vec.classifier import fit_classifier

FAMILIES: dict[str, tuple[str, ...]] = {
    "digits": ("mnist", "gujarati_digits", "printed_digits", "math_symbols"),
    "faces": ("fer2013", "ck48", "smiles", "utk_gender"),
    "animals": ("birds6", "monkeys10", "dogs_cats", "tin_birds"),
    "medical": ("blood_cells", "busi", "fundus4"),
    "materials": ("magnetic_tile", "neu_steel", "elpv_solar"),
    "scenes": ("intel_scenes", "weather4", "rsscn7"),
    "rotation": ("cifar10: rotation", "popular_animals: rotation", "chars74k: rotation"),
    "plants": ("flowers17", "trees5"),
    "hands": ("asl_mnst", "sign_digits"),
    "mirrored": ("playing_cards: mirrored", "chars74k: mirrored"),
}
"""Tasks of several sources that ask for the same: an expert of the target's family is a right answer."""

EXPERT = AdapterConfig("ssf", learning_rate=0.01, weight_decay=3.0, epochs=20)
EXPERT_IMAGES, TARGET_IMAGES = 500, 100
MOST_TESTED = 500  # test images that an expert's classifier is scored on
L2 = 0.1  # of the classifier on an expert's features
RATES = (0.01, 0.003)
RESULTS = Path(__file__).with_name("results")
EXPERTS, WARM_STARTS, EMBEDDINGS = RESULTS / "experts.jsonl", RESULTS / "warm_starts.jsonl", RESULTS / "embeddings"

app = typer.Typer(add_completion=False, help=__doc__)
Datasets = Annotated[Path, typer.Argument(help="folder of ImageFolder zips with train and test splits")]
Weights = Annotated[Path, typer.Argument(help="weights of vit_tiny_patch16_224")]
Experts = Annotated[Path, typer.Argument(help="where the tuned adapters lie")]
Processes = Annotated[int, typer.Option(help="processes of one thread each")]


def tasks_of(datasets: Path) -> dict[str, GroundTask]:
    """The tasks that are experts and targets by name: one of each family, then another one of each."""
    known = {task.name: task for task in ground(datasets)}
    turns = chain.from_iterable(zip_longest(*FAMILIES.values()))
    return {name: known[name] for name in turns if name is not None}


@app.command()
def train(
    datasets: Datasets, weights: Weights, experts: Experts, processes: Processes = 2, precision: Precision = "bfloat16"
) -> None:
    """Tune an expert on every task."""
    _share(processes, partial(_train, weights, experts, precision), tasks_of(datasets).values())


@app.command()
def transfer(
    datasets: Datasets, weights: Weights, experts: Experts, processes: Processes = 2, precision: Precision = "bfloat16"
) -> None:
    """A linear classifier on the frozen features of every expert from another source, for every target."""
    _share(processes, partial(_transfer, datasets, weights, experts, precision), tasks_of(datasets).values())


@app.command()
def warm(
    datasets: Datasets, weights: Weights, experts: Experts, processes: Processes = 2, precision: Precision = "bfloat16"
) -> None:
    """Tune from the expert that the asymmetric distance names, and from scratch, at two learning rates."""
    _share(processes, partial(_warm, datasets, weights, experts, precision), tasks_of(datasets).values())


def _share(processes: int, work: Callable[[GroundTask], None], tasks: Any) -> None:
    with multiprocessing.get_context("spawn").Pool(processes) as pool:
        for _ in pool.imap_unordered(work, tasks):
            pass


def _train(weights: Path, experts: Path, precision: str, task: GroundTask) -> None:
    torch.set_num_threads(1)
    out = experts / file_name(task.name)
    embedding_of(task, EXPERT_IMAGES)
    if not (out / "adapter.json").exists():
        learning, validation, test = batches_of(task, EXPERT_IMAGES, 0)
        model = load_vit(weights)
        adapters.attach(model, EXPERT, learning.num_classes, seed=0)
        adapters.fit(model, learning, validation, seed=0, autocast=_autocast(precision), progress=False)
        adapters.save(model, out, class_names=task.split("train").class_names)
        print(f"{task.name}: {adapters.evaluate(model, test, autocast=_autocast(precision)).accuracy:.3f}", flush=True)


def _transfer(datasets: Path, weights: Path, experts: Path, precision: str, task: GroundTask) -> None:
    torch.set_num_threads(1)
    done = {(row["target"], row["expert"]) for row in json_lines.so_far(EXPERTS)}
    train, _, test = batches_of(task, TARGET_IMAGES, 0)
    embedding_of(task, TARGET_IMAGES)  # so that distances to it can be looked up
    labels, true = train.labels().numpy(), test.labels().numpy()[:MOST_TESTED]
    ready = [name for name, other in tasks_of(datasets).items() if other.source != task.source]
    measured = []
    for expert in (NO_EXPERT, *(name for name in ready if (experts / file_name(name)).exists())):
        if (task.name, expert) in done:
            continue
        model = load_vit(weights)
        if expert != NO_EXPERT:
            model = adapters.load(model, experts / file_name(expert))
        features, logits = outputs(model, train, precision)
        classifier = fit_classifier(features, labels, train.num_classes, l2=L2)
        seen, _ = outputs(model, test, precision)
        predicted = (seen @ classifier.weight.T + classifier.bias).argmax(axis=1)
        probabilities = np.exp(logits - logits.max(axis=1, keepdims=True))
        probabilities /= probabilities.sum(axis=1, keepdims=True)
        scores = {name: score(Outputs(features, probabilities, labels)) for name, score in SCORES.items()}
        accuracy = float((predicted == true).mean())
        measured.append({"target": task.name, "source": task.source, "expert": expert, "accuracy": accuracy} | scores)
        print(f"{task.name} from {expert}: {accuracy:.3f}", flush=True)
    for row in measured:  # all at once: the best of some candidates is not the best expert
        json_lines.append(EXPERTS, row)


def _warm(datasets: Path, weights: Path, experts: Path, precision: str, task: GroundTask) -> None:
    torch.set_num_threads(1)
    done = {(row["target"], row["rate"], row["seed"]) for row in json_lines.so_far(WARM_STARTS)}
    others = [other for other in tasks_of(datasets).values() if other.source != task.source]
    ready = [other for other in others if (experts / file_name(other.name)).exists()]
    embeddings = [embedding_of(other, EXPERT_IMAGES) for other in ready]
    distances = distance_matrix(embeddings, "asymmetric", [embedding_of(task, TARGET_IMAGES)])[:, 0]
    nearest = int(np.argmin(distances))
    for rate, seed in product(RATES, (0,)):
        if (task.name, rate, seed) in done:
            continue
        learning, validation, test = batches_of(task, TARGET_IMAGES, seed)
        accuracy = {}
        for name, start in (("cold", None), ("warm", experts / file_name(ready[nearest].name))):
            model = load_vit(weights)
            adapters.attach(model, EXPERT.replace(learning_rate=rate), learning.num_classes, seed=seed)
            adapters.fit(
                model, learning, validation,
                init_from=start, seed=seed, autocast=_autocast(precision), progress=False,
            )  # fmt: skip
            accuracy[name] = adapters.evaluate(model, test, autocast=_autocast(precision)).accuracy
        own = {"target": task.name, "source": task.source, "seed": seed, "rate": rate}
        chosen = {"expert": ready[nearest].name, "distance": float(distances[nearest])}
        json_lines.append(WARM_STARTS, own | chosen | accuracy)
        print(
            f"{task.name} at {rate:g}: {accuracy['cold']:.3f}, from {ready[nearest].name} {accuracy['warm']:.3f}",
            flush=True,
        )


def embedding_of(task: GroundTask, images: int) -> TaskEmbedding:
    """Under the bundled probe; made if it is not stored."""
    file = _file_of(task.name, images)
    if not file.exists():
        task2vec.embed(task.labelled(images, 0), task2vec.load_probe()).save(file)
    return TaskEmbedding.load(file)


def stored_embedding(task: str, images: int) -> TaskEmbedding:
    """What `embedding_of` or `evidence.py facts` stored."""
    return TaskEmbedding.load(_file_of(task, images))


def _file_of(task: str, images: int) -> Path:
    return EMBEDDINGS / f"{file_name(task)}@{images}.safetensors"


@torch.no_grad()
def outputs(model: nn.Module, batches: Batches, precision: str) -> tuple[np.ndarray, np.ndarray]:
    """The classifier's inputs `(N, d)` and outputs `(N, K)` for the first `MOST_TESTED` images."""
    vit: Any = model.eval()
    features, logits = [], []
    dtype = _autocast(precision)
    for indices in torch.arange(min(len(batches), MOST_TESTED)).split(64):
        with torch.autocast("cpu", dtype, enabled=dtype is not None):
            pooled = vit.forward_head(vit.forward_features(batches.take(indices)[0]), pre_logits=True)
            given = vit.get_classifier()(pooled)
        features.append(pooled.double().numpy())
        logits.append(given.double().numpy())
    return np.concatenate(features), np.concatenate(logits)


def _autocast(precision: str) -> torch.dtype | None:
    return one_core(precision).autocast_dtype


if __name__ == "__main__":
    app()
