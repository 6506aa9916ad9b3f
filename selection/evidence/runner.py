"""Run a grid of trials: every configuration on every task, each finished trial written to the store at once.

A run that is killed goes on where it stopped: trials that are in the store are not run again. Several processes may
share a grid and a store.
"""

from __future__ import annotations

import platform
import time
from itertools import product

import timm
import torch
from torch import nn

import adapters
from adapters import AdapterConfig, BackboneId
from adapters.data import Batches, transform_of
from selection.evidence.backbone import load_backbone
from selection.evidence.grid import Grid, GridTask
from selection.store import TaskStore, Trial
from task2vec import Compute, Probe, embed, load_probe
from task2vec.progress import reporting

VALIDATION_SHARE = 0.2  # of a task's images, set aside to watch over the training


def run_grid(
    grid: Grid,
    store: TaskStore,
    *,
    probe: Probe | None = None,
    compute: Compute | None = None,
    part: int = 0,
    parts: int = 1,
    progress: bool = True,
) -> None:
    """Embed the tasks of a grid, tune each configuration on each of them, and store what came out.

    Args:
        grid: What to run. A fifth of a task's training images watches over the training; the test images score it.
        store: Where tasks and trials go; trials in it are skipped.
        probe: What to embed with; the bundled probe if not given.
        compute: Where and how to compute; what the grid says if not given.
        part: Which share of the tasks is run here, counted from 0.
        parts: How many processes share the grid.
        progress: Show progress and the time left on standard error.
    """
    tasks = list(grid.tasks())[part::parts]
    total, finished = len(tasks) * len(grid.configs) * len(grid.seeds), 0
    probe, compute = probe or load_probe(), compute or grid.compute
    load_backbone(grid.backbone)  # weights that cannot be had are said before anything is embedded
    with reporting(progress) as report:
        for seed, task in product(grid.seeds, tasks):  # every task once before any of them again
            missing = _missing(grid, store, task, probe, compute, seed)
            finished += len(grid.configs) - len(missing)
            report(f"Trials on {grid.backbone}", finished, total)
            data = _decode(task, transform_of(load_backbone(grid.backbone))) if missing else None
            for config in missing:
                assert data is not None
                trial = run_trial(load_backbone(grid.backbone), config, *data, seed=seed, compute=compute)
                store.add_trials(task.train.name, [trial])
                finished += 1
                report(f"Trials on {grid.backbone}", finished, total)


def run_trial(
    model: nn.Module,
    config: AdapterConfig,
    train: Batches,
    validation: Batches,
    test: Batches,
    *,
    seed: int,
    compute: Compute | None = None,
) -> Trial:
    """Tune one configuration on a fresh backbone and score its last epoch on the test images.

    Args:
        model: The backbone, changed in place.
        config: What to tune.
        train: Images to learn from.
        validation: Images that watch over the training.
        test: Images that give the score.
        seed: Fixes the initial weights and the order of the images.
        compute: Where and how to compute; on the accelerator in bfloat16, if there is one and nothing is given.
    """
    backbone, compute = BackboneId.of_model(model), compute or Compute()
    model.to(compute.device_for(next(model.parameters()).device))
    adapters.attach(model, config, max(train.num_classes, validation.num_classes), seed=seed)
    start = time.perf_counter()
    result = adapters.fit(
        model,
        train,
        validation,
        keep="last",
        seed=seed,
        autocast=compute.autocast_dtype,
        workers=compute.workers,
        compile=compute.compile,
        progress=False,
    )
    seconds = time.perf_counter() - start
    return Trial(
        config=config,
        backbone=backbone,
        score=adapters.evaluate(model, test, autocast=compute.autocast_dtype, workers=compute.workers).accuracy,
        validation=result.best.accuracy,
        parameters=adapters.num_adapter_parameters(model),
        seconds=seconds,
        seed=seed,
        num_images=len(train),
        environment=_environment(next(model.parameters()).device.type, compute.autocast_dtype),
        curve=result.curve,
    )


def _missing(
    grid: Grid, store: TaskStore, task: GridTask, probe: Probe, compute: Compute, seed: int
) -> list[AdapterConfig]:
    """What is left to run on a task, which is embedded and stored if it is not there yet."""
    name = task.train.name
    if name not in store or not store.embeddings(probe.fingerprint, name=name):
        store.add(embed(task.train, probe, compute=compute), name=name, source=task.source)
    wanted = BackboneId.of_name(grid.backbone)
    done = {t.config for t in store.task(name).trials if t.backbone.is_same(wanted) and t.seed == seed}
    return [config for config in grid.configs if config not in done]


def _decode(task: GridTask, transform: adapters.data.Transform) -> tuple[Batches, Batches, Batches]:
    learning, validation = task.train.split(VALIDATION_SHARE)
    return Batches(learning, transform), Batches(validation, transform), Batches(task.test, transform)


def _environment(device: str, autocast: torch.dtype | None) -> str:
    kind = platform.machine() if device == "cpu" else torch.cuda.get_device_name()
    number = "float32" if autocast is None else str(autocast).removeprefix("torch.")
    return f"torch {torch.__version__}, timm {timm.__version__}, {kind}, {torch.get_num_threads()} threads, {number}"
