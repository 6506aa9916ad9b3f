"""The pilot of the grid of trials: which training protocol repeats itself best, and which settings bracket each method.

python benchmarks/pilot.py run protocol datasets/ weights.safetensors -o results/pilot-protocol.jsonl   resumes
python benchmarks/pilot.py run rates datasets/ weights.safetensors -o results/pilot-rates.jsonl
"""

from __future__ import annotations

import copy
import json
import multiprocessing
import os
import time
from collections import deque
from functools import partial
from itertools import product
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from ground.tasks import ground
from ground.vit import AUTOCAST, batches_of, load_vit
from torch import nn

import adapters
from adapters import AdapterConfig
from adapters.data import Batches

TASKS = ("sprites: where", "scenes: count", "tin_birds", "cifar10", "magnetic_tile", "cifar10: rotation")
RATE_TASKS = ("sprites: where", "tin_birds", "magnetic_tile")
IMAGES, RATE_IMAGES = 500, 250
AVERAGED = 0.25  # share of the epochs, the last ones, over which weights are averaged
FIRST, LAST = tuple(range(6)), tuple(range(6, 12))

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
        {"method": "lora", "rank": 8, "learning_rate": 0.002},
        {"method": "ssf", "learning_rate": 0.005},
        {"method": "full", "learning_rate": 0.0002},
    ]
    plans = [{"epochs": 20}, {"epochs": 10}, {"epochs": 40}]
    return [
        (task, IMAGES, seed, plan | config)
        for plan, seed, task, config in product(plans, range(3), TASKS[:4], configs)
        if config["method"] != "linear" or plan == plans[0]
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
    return [(task, RATE_IMAGES, 0, config | {"epochs": 10}) for config in configs for task in RATE_TASKS]


JOBS = {"protocol": protocol_jobs, "rates": rate_jobs}


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
    done = [json.loads(line) for line in out.read_text().splitlines()] if out.exists() else []
    known = {json.dumps([row[key] for key in ("task", "images", "seed", "settings")], sort_keys=True) for row in done}
    jobs = [job for job in JOBS[what]() if json.dumps(list(job), sort_keys=True) not in known]
    with multiprocessing.get_context("spawn").Pool(processes) as pool:
        for row in pool.imap_unordered(partial(train, datasets, weights), jobs):
            with out.open("a") as file:
                file.write(json.dumps(row) + "\n")
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
