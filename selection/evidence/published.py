"""What others published for ViT-B/16, as a prior for that backbone where no trials of one's own are at hand.

The files lie in `selection/evidence/library/published/` with their sources named beside them.
"""

from __future__ import annotations

import csv
import dataclasses
from collections import defaultdict
from pathlib import Path

import numpy as np

FOLDER = Path(__file__).parent / "library" / "published"
RESULTS = {"VTAB-1k": "vtab1k_vitb16.csv", "FGVC": "fgvc_vitb16.csv"}
RECIPES = "ssf_vitb16_recipes.csv"
SOURCE = "synbol/Parameter-Efficient-Transfer-Learning-Benchmark"

BACKBONES = ("vit_base_patch16_224", "vit_base_patch16_384")

METHOD_NAMES = {
    "Full fine-tuning": "full",
    "Linear probing": "linear",
    "Adapter": "pfeiffer",
    "AdaptFormer": "adaptformer",
    "BitFit": "bitfit",
    "FacT": "fact",
    "LoRA": "lora",
    "RepAdapter": "repadapter",
    "SSF": "ssf",
    "VPT-Deep": "vpt_deep",
    "VPT-Shallow": "vpt_shallow",
}
"""What the tables call the methods of this package."""


@dataclasses.dataclass(frozen=True)
class Published:
    """A published accuracy.

    Attributes:
        method: As the table calls it.
        suite: VTAB-1k or FGVC.
        task: The dataset.
        accuracy: Top-1, in [0, 1].
        parameters: Trainable ones, in millions.
        source: Where it was read.
    """

    method: str
    suite: str
    task: str
    accuracy: float
    parameters: float
    source: str = SOURCE


@dataclasses.dataclass(frozen=True)
class Recipe:
    """How the authors of SSF trained it on a task."""

    task: str
    learning_rate: float
    weight_decay: float
    drop_path: float
    epochs: int
    source: str = "dongzelian/SSF"


def published_results() -> list[Published]:
    """All published accuracies."""
    return [
        Published(
            row["method"],
            row["suite"],
            row["task"],
            float(row["top1_accuracy"]) / 100,
            float(row["trainable_params_M"] or "nan"),
        )
        for name in RESULTS.values()
        for row in _rows(name)
    ]


def published_recipes() -> list[Recipe]:
    """SSF's settings for each task."""
    return [
        Recipe(
            row["task"],
            float(row["learning_rate"]),
            float(row["weight_decay"]),
            float(row["drop_path"]),
            int(row["epochs"]),
        )
        for row in _rows(RECIPES)
    ]


def published_gains(backbone: str) -> dict[str, float]:
    """For each of our methods its mean accuracy over a task's mean, over the published tasks; empty for other backbones
    than ViT-B/16.

    Only methods that were measured on a task count for its mean, and each suite's tasks count alike.
    """
    if backbone.split(".")[0] not in BACKBONES:
        return {}
    by_task: dict[str, dict[str, float]] = defaultdict(dict)
    for result in published_results():
        if result.method in METHOD_NAMES:
            by_task[result.task][METHOD_NAMES[result.method]] = result.accuracy
    gains: dict[str, list[float]] = defaultdict(list)
    for scores in by_task.values():
        mean = float(np.mean(list(scores.values())))
        for method, score in scores.items():
            gains[method].append(score - mean)
    return {method: float(np.mean(found)) for method, found in gains.items()}


def _rows(name: str) -> list[dict[str, str]]:
    with (FOLDER / name).open(newline="") as file:
        return list(csv.DictReader(file))
