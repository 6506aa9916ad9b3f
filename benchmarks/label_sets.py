"""Does an embedding tell what is asked of images, and not only the images? Several label sets on the same ones.

python benchmarks/label_sets.py measure datasets/ weights.safetensors --cache runs/label_sets    resumes
python benchmarks/label_sets.py write --cache runs/label_sets    docs/benchmarks.md
"""

from __future__ import annotations

import os
from collections import Counter
from itertools import product
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer
from ground.tasks import GroundTask, file_name, ground
from ground.vit import NAME, load_vit, transform
from meaning import Setting, complete
from page import table, write_section
from scipy.spatial.distance import cdist

import task2vec
from task2vec import Probe

SETTINGS = [Setting("montecarlo", 1.0), Setting("montecarlo", 0.1), Setting("montecarlo", 10.0)]
SIZES = (400, 200)  # images a half
DISTANCES = ("log_cosine", "cosine", "jensen_shannon")
PROBES = {"task2vec_resnet_32": "the bundled probe, 32 px", NAME: "ViT-tiny, ImageNet-21k, 96 px"}

app = typer.Typer(add_completion=False, help=__doc__)
Cache = Annotated[Path, typer.Option(help="folder for what has been measured")]


def label_sets(datasets: Path) -> list[GroundTask]:
    """The tasks whose images have other label sets, too."""
    tasks = ground(datasets)
    several = Counter(task.base for task in tasks)
    return [task for task in tasks if several[task.base] > 1]


@app.command()
def measure(
    datasets: Annotated[Path, typer.Argument(help="folder of ImageFolder zips with train and test splits")],
    weights: Annotated[Path, typer.Argument(help="weights of vit_tiny_patch16_224")],
    cache: Cache,
) -> None:
    """Embed both halves of the images of every label set, under the bundled probe and a larger one."""
    torch.set_num_threads(1)
    cache.mkdir(parents=True, exist_ok=True)
    vit = Probe(load_vit(weights), classifier="head", transform=transform(), name=NAME)
    probes = {"task2vec_resnet_32": task2vec.load_probe(), NAME: vit}
    for size, (name, probe), task in product(SIZES, probes.items(), label_sets(datasets)):
        images = task.split("train")
        # The same images whatever the labels: a draw by class would tell the label sets apart by itself.
        chosen = np.random.default_rng(0).permutation(len(images))[: 2 * size]
        for side, half in enumerate(np.array_split(chosen, 2)):
            file = cache / f"{file_name(task.name)}.{name}.{size}.{side}.npz"
            complete(file, images.select(half, name=task.name), probe, SETTINGS, seed=side)


@app.command()
def write(cache: Cache) -> None:
    """Write the section of docs/benchmarks.md from what has been measured."""
    names = sorted({path.name.split(".")[0] for path in cache.glob("*.npz")})
    rows = []
    for (name, title), size in product(PROBES.items(), SIZES):
        halves = [cache / f"{task}.{name}.{size}.{side}.npz" for side in (0, 1) for task in names]
        if not all(path.exists() for path in halves):
            continue
        found = [dict(np.load(path)) for path in halves]
        means = np.stack([one["mean"] for one in found]).astype(np.float64)
        apart_by_mean = cdist(means, means)
        # Mirrored or blurred photographs are other images; where only the labels differ, mean features are the same.
        same = (apart_by_mean < 1e-4).sum(axis=1) > 1
        rows.append([title, size, "mean features", "Euclidean", *_shares(apart_by_mean, same)])
        for setting in SETTINGS:
            vectors = np.stack([one[f"{setting.method}_{setting.l2}"] for one in found]).astype(np.float64)
            reference = np.log(np.maximum(vectors, 1e-6 * vectors.mean(axis=1, keepdims=True))).mean(axis=0)
            for distance in DISTANCES:
                apart = task2vec.distance_matrix(vectors, distance, reference=reference)
                rows.append([title, size, f"{setting.method}, penalty {setting.l2:g}", distance, *_shares(apart, same)])
    head = ["probe", "images a half", "embedding", "distance", "told apart", "the very same images"]
    write_section(
        "labels",
        "The same images with other labels",
        "python benchmarks/label_sets.py measure datasets/ weights.safetensors --cache runs/label_sets\n"
        "python benchmarks/label_sets.py write --cache runs/label_sets",
        INTRODUCTION.format(count=len(names), halves=2 * len(names)) + table(head, rows),
    )


def _shares(apart: np.ndarray, same: np.ndarray) -> list[str]:
    """How often the nearest of all other halves has the same labels: of all, and of those on the very same images."""
    count = len(apart) // 2
    nearest = np.where(np.eye(len(apart)), np.inf, apart).argmin(axis=1)
    right = nearest == (np.arange(2 * count) + count) % (2 * count)
    return [f"{100 * np.mean(right):.0f}%", f"{100 * np.mean(right[same]):.0f}% of {int(same.sum()) // 2}"]


INTRODUCTION = """{count} label sets, each on images that have at least one other: what is drawn, where, how large, how
many; the class of photographs, or which way they are turned, how exposed, how blurred, in what order their parts are.
The images of each are split at random into two halves, the same for all label sets of a collection. Told apart is a
label set whose half has its own other half as the nearest of all {halves}, not the same images under other labels. The
last column counts those whose images have another label set without a changed pixel. Asked for were 95%.

"""


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    app()
