"""The pilot of the grid of trials: which training protocol repeats itself best, and which settings bracket each method.

python benchmarks/pilot.py run protocol datasets/ weights.safetensors -o results/pilot-protocol.jsonl   resumes
python benchmarks/pilot.py run rates datasets/ weights.safetensors -o results/pilot-rates.jsonl
python benchmarks/pilot.py run decays datasets/ weights.safetensors -o results/pilot-decays.jsonl
python benchmarks/pilot.py write results/pilot-protocol.jsonl results/pilot-rates.jsonl results/pilot-decays.jsonl
"""

from __future__ import annotations

import copy
import json
import multiprocessing
import os
import time
from collections import defaultdict, deque
from functools import partial
from itertools import product
from pathlib import Path
from typing import Annotated, Any

import json_lines
import numpy as np
import torch
import typer
from ground.tasks import ground
from ground.vit import AUTOCAST, batches_of, load_vit
from page import DOCS, table
from torch import nn

import adapters
from adapters import AdapterConfig
from adapters.data import Batches

TASKS = ("sprites: where", "scenes: count", "tin_birds", "cifar10", "magnetic_tile", "cifar10: rotation")
RATE_TASKS = ("tin_birds", "magnetic_tile")
DECAY_TASKS = ("tin_birds", "cifar10", "busi", "blood_cells", "ck48", "sprites: where")
IMAGES, RATE_IMAGES = 500, 250
AVERAGED = 0.25  # share of the epochs, the last ones, over which weights are averaged
WEAK = 1e-4  # weight decay, which does nothing

Job = tuple[str, int, int, dict[str, Any]]
"""Task, training images, seed, and settings."""

app = typer.Typer(add_completion=False, help=__doc__)


@app.callback()
def main() -> None:
    """Two commands: `run` and, from what it found, `write`."""


def protocol_jobs() -> list[Job]:
    """Four methods, short and long schedules, three seeds."""
    configs = [
        {"method": "linear", "learning_rate": 0.003, "epochs": 100},
        {"method": "head2toe", "learning_rate": 0.0005, "epochs": 50},
        {"method": "lora", "rank": 8, "learning_rate": 0.002},
        {"method": "ssf", "learning_rate": 0.005},
        {"method": "full", "learning_rate": 0.0002},
    ]
    plans = [{"epochs": 20}, {"epochs": 10}, {"epochs": 40}]
    return [
        (task, IMAGES, seed, plan | config | {"weight_decay": WEAK})
        for plan, seed, task, config in product(plans, range(3), TASKS[:4], configs)
        if "epochs" not in config or plan == plans[0]
    ]


RATES: dict[str, tuple[dict[str, Any], tuple[float, ...]]] = {
    "lora": ({"rank": 8}, (0.003, 0.01, 0.03)),
    "ssf": ({}, (0.003, 0.01, 0.03)),
    "full": ({}, (0.0001, 0.0003, 0.001)),
    "adaptformer": ({"bottleneck": 64}, (0.001, 0.003, 0.01)),
    "bitfit": ({}, (0.003, 0.01)),
    "fact": ({"rank": 16}, (0.003, 0.01, 0.03)),
    "vpt_deep": ({"prompts": 10}, (0.01, 0.05)),
    "houlsby": ({"bottleneck": 8}, (0.003, 0.01)),
    "repadapter": ({"bottleneck": 8}, (0.003, 0.01)),
    "norm": ({}, (0.003, 0.01)),
    "pfeiffer": ({"bottleneck": 64}, (0.003, 0.01)),
    "vpt_shallow": ({"prompts": 50}, (0.01, 0.05)),
    "pixel_prompt": ({}, (0.03, 0.3)),
    "head2toe": ({"epochs": 50}, (0.0003, 0.001, 0.003)),
}
"""Sizes, and the learning rates that are compared."""


def rate_jobs() -> list[Job]:
    """Every method at several learning rates, one seed; and AdaptFormer before the normalisation."""
    configs = [
        {"method": method, "learning_rate": rate} | sizes
        for place in range(3)
        for method, (sizes, rates) in RATES.items()
        for rate in rates[place : place + 1]
    ]
    configs += [config | {"normalised": False} for config in configs if config["method"] == "adaptformer"]
    plan = {"epochs": 10, "weight_decay": WEAK}
    return [(task, RATE_IMAGES, 0, plan | config) for config in configs for task in RATE_TASKS]


DECAYS: dict[str, tuple[dict[str, Any], tuple[float, ...]]] = {
    "linear": ({"learning_rate": 0.003, "epochs": 100}, (WEAK, 1.0, 3.0, 10.0)),
    "head2toe": ({"learning_rate": 0.0005, "epochs": 50}, (WEAK, 3.0, 10.0)),
    "ssf": ({"learning_rate": 0.01, "epochs": 20}, (WEAK, 1.0, 3.0)),
    "lora": ({"rank": 8, "learning_rate": 0.005, "epochs": 20}, (WEAK, 1.0)),
}
"""Settings, and the weight decays that are compared. Of `ssf` only the classifier has matrices that decay."""


def decay_jobs() -> list[Job]:
    """Some methods with several weight decays, one seed."""
    return [
        (task, IMAGES, 0, {"method": method, "weight_decay": decay} | settings)
        for method, (settings, decays) in DECAYS.items()
        for decay, task in product(decays, DECAY_TASKS)
    ]


JOBS = {"protocol": protocol_jobs, "rates": rate_jobs, "decays": decay_jobs}


ENDS = {"last": "the last epoch", "best": "the best epoch on the validation images", "averaged": "averaged weights"}


@app.command()
def write(
    protocol: Annotated[Path, typer.Argument(help="what `run protocol` appended to")],
    rates: Annotated[Path, typer.Argument(help="what `run rates` appended to")],
    decays: Annotated[Path, typer.Argument(help="what `run decays` appended to")],
) -> None:
    """Write docs/pilot.md."""
    (DOCS / "pilot.md").write_text(
        PAGE.format(
            repeats=_repeats_table(json_lines.read(protocol)),
            accuracies=_accuracy_table(json_lines.read(protocol)),
            rates=_comparison(json_lines.read(rates), "learning_rate"),
            decays=_comparison(json_lines.read(decays), "weight_decay"),
            images=IMAGES,
            rate_images=RATE_IMAGES,
            averaged=f"{AVERAGED:.0%}",
        )
    )


def _by_task(rows: list[dict[str, Any]], end: str, epochs: int) -> dict[str, np.ndarray]:
    """For each task, test accuracies `(configurations, seeds)` of those that have every seed; linear probes count."""
    found: dict[str, dict[str, dict[int, float]]] = defaultdict(lambda: defaultdict(dict))
    for row in rows:
        if row["settings"]["epochs"] == epochs or row["settings"]["method"] in ("linear", "head2toe"):
            found[row["task"]][row["settings"]["method"]][row["seed"]] = row[end]
    seeds = sorted({row["seed"] for row in rows})
    return {
        task: np.array([[scores[s] for s in seeds] for scores in methods.values() if set(seeds) <= set(scores)])
        for task, methods in found.items()
    }


def repeats(scores: np.ndarray) -> tuple[float, float]:
    """Standard deviations of `(configurations, seeds)`: of a repeat around its configuration, and of configurations.

    What moves all configurations of a seed alike (easier images) is taken out of the first; what repeats leave of the
    means' spread is taken out of the second.
    """
    count = scores.shape[1]
    centred = scores - scores.mean(axis=0)
    within = float(centred.var(axis=1, ddof=1).mean() * len(scores) / (len(scores) - 1))
    between = float(scores.mean(axis=1).var(ddof=1)) - within / count
    return within**0.5, max(between, 0.0) ** 0.5


def _repeats_table(rows: list[dict[str, Any]]) -> str:
    lines = []
    for end, name in ENDS.items():
        by_task = _by_task(rows, end, 20)
        pairs = [repeats(scores) for scores in by_task.values()]
        within, between = (float(np.mean([pair[k] ** 2 for pair in pairs])) ** 0.5 for k in (0, 1))
        mean = float(np.mean([scores.mean() for scores in by_task.values()]))
        numbers = [f"{100 * value:.1f}" for value in (mean, within, between)]
        lines.append([name, *numbers, f"{within / between:.2f}"])
    return table(["kept", "mean accuracy", "repeats differ by", "configurations differ by", "ratio"], lines)


def _accuracy_table(rows: list[dict[str, Any]]) -> str:
    cells: dict[tuple[str, int], dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for row in rows:
        cells[row["settings"]["method"], row["settings"]["epochs"]][row["task"]].append(row["last"])
    tasks = list(dict.fromkeys(row["task"] for row in rows))
    lines = [
        [f"`{method}`", str(epochs), *(" ".join(f"{100 * v:.0f}" for v in found[task]) or "-" for task in tasks)]
        for (method, epochs), found in sorted(cells.items())
    ]
    return table(["method", "epochs", *tasks], lines)


def _comparison(rows: list[dict[str, Any]], setting: str) -> str:
    """Accuracies of methods and values of a setting, task by task."""
    cells: dict[tuple[str, float], dict[str, float]] = defaultdict(dict)
    for row in rows:
        settings = AdapterConfig.from_dict(row["settings"]).to_dict()
        sizes = ", ".join(
            f"{k} {settings[k]}" for k in ("rank", "bottleneck", "prompts", "normalised") if k in settings
        )
        name = f"`{settings['method']}`{f' ({sizes})' if sizes else ''}"
        cells[name, settings[setting]][row["task"]] = row["last"]
    tasks = list(dict.fromkeys(row["task"] for row in rows))
    lines = []
    for (name, value), found in sorted(cells.items()):
        accuracies = [f"{100 * found[task]:.1f}" if task in found else "-" for task in tasks]
        mean = f"{100 * np.mean(list(found.values())):.1f}" if len(found) == len(tasks) else "-"
        lines.append([name, f"{value:g}", *accuracies, mean])
    return table(["method", setting.replace("_", " "), *tasks, "mean"], lines)


PAGE = """# The pilot of the evidence

This page is written by `python benchmarks/pilot.py write`.

Before the grid of trials on the pretrained backbone (`vit_tiny_patch16_224.augreg_in21k_ft_in1k` at 96 pixels), a few
tasks were tuned many times: to see how far repeats of a trial differ against how far configurations differ, and which
learning rates suit each method. A repeat has other training images, another order and other initial weights. All
numbers are test accuracies in percent; the test images chose nothing within a training.

## Which weights to keep

{images} training images, a quarter as many to validate with, 20 epochs, batches of 32, a cosine schedule, three seeds,
the methods and tasks of the next table. Averaged weights are the mean over the last {averaged} of the epochs. What
moves all configurations of a seed alike is taken out.

{repeats}

The last epoch is kept: it is at least as good on average, and validation images are free to watch only.

## Repeats, method by method

Last epoch, one number a seed.

{accuracies}

## Learning rates

{rate_images} training images, 10 epochs, one seed, the last epoch.

{rates}

## Weight decay

{images} training images, one seed, the last epoch. Decay acts on matrices: on the classifier, and on LoRA's own. It is
decoupled, so that no weight can grow beyond about the inverse of it.

{decays}

A classifier that learns alone learns its images by heart without a strong decay, and so does one beside SSF's few
parameters. The defaults of `head2toe` and `ssf` are the strongest of these; that of `linear` is 1, since other features
may want larger weights than these do.
"""


@app.command()
def run(
    what: Annotated[str, typer.Argument(help=f"one of {', '.join(JOBS)}")],
    datasets: Annotated[Path, typer.Argument(help="folder of ImageFolder zips with train and test splits")],
    weights: Annotated[Path, typer.Argument(help="weights of vit_tiny_patch16_224")],
    out: Annotated[Path, typer.Option("--out", "-o", help="JSON lines, appended to")],
    processes: Annotated[int, typer.Option(help="processes of one thread each")] = 2,
) -> None:
    """Train what is missing in `out`."""
    out.parent.mkdir(parents=True, exist_ok=True)
    done = json_lines.so_far(out)
    known = {json.dumps([row[key] for key in ("task", "images", "seed", "settings")], sort_keys=True) for row in done}
    jobs = [job for job in JOBS[what]() if json.dumps(list(job), sort_keys=True) not in known]
    with multiprocessing.get_context("spawn").Pool(processes) as pool:
        for row in pool.imap_unordered(partial(train, datasets, weights), jobs):
            json_lines.append(out, row)
            print(f"{row['task']} {row['settings']} seed {row['seed']}: {row['last']:.3f}", flush=True)


def train(datasets: Path, weights: Path, job: Job) -> dict[str, Any]:
    """One training, with the test accuracy of three ways to end it: best epoch, last epoch, averaged weights."""
    torch.set_num_threads(1)
    name, images, seed, settings = job
    task = next(t for t in ground(datasets) if t.name == name)
    learning, validation, test = batches_of(task, images, seed)
    config = AdapterConfig.from_dict(settings)
    model = adapters.attach(load_vit(weights), config, learning.num_classes, seed=seed)
    snapshots: deque[dict[str, torch.Tensor]] = deque(maxlen=max(1, round(AVERAGED * (config.epochs or 1))))
    best: tuple[float, dict[str, torch.Tensor]] = (-1.0, {})

    def remember(tuned: nn.Module, record: dict[str, float]) -> None:
        nonlocal best
        now = {n: t.detach().clone() for n, t in adapters.tuned_tensors(tuned).items()}
        snapshots.append(now)
        if record["accuracy"] > best[0]:
            best = record["accuracy"], now

    start = time.perf_counter()
    result = adapters.fit(
        model, learning, validation, batch_size=32, keep="last", autocast=AUTOCAST, seed=seed, on_epoch=remember,
        progress=False,
    )  # fmt: skip
    seconds = time.perf_counter() - start
    last = adapters.evaluate(model, test, autocast=AUTOCAST).accuracy
    mean = {n: torch.stack([s[n].float() for s in snapshots]).mean(dim=0) for n in snapshots[-1]}
    return {
        "task": name,
        "images": images,
        "seed": seed,
        "settings": settings,
        "last": last,
        "best": _score(model, best[1], test),
        "averaged": _score(model, mean, test),
        "curve": [round(record["accuracy"], 4) for record in result.history],
        "loss": [round(record["loss"], 4) for record in result.history],
        "seconds": round(seconds, 2),
        "train": len(learning),
        "test": len(test),
    }


def _score(model: nn.Module, tensors: dict[str, torch.Tensor], test: Batches) -> float:
    copied = copy.deepcopy(model)
    with torch.no_grad():
        for name, tensor in adapters.tuned_tensors(copied).items():
            tensor.copy_(tensors[name])
    return adapters.evaluate(copied, test, autocast=AUTOCAST).accuracy


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    app()
