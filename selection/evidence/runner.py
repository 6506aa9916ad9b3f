"""Run a grid of trials: every configuration on every task, each finished trial written to the store at once.

A run that is killed goes on where it stopped: trials that are in the store are not run again. Only this process writes
to the store, wherever the trials run, so that a file will do.
"""

from __future__ import annotations

import copy
import dataclasses
import hashlib
import json
import platform
import time
from collections.abc import Iterable, Iterator
from itertools import chain, product
from pathlib import Path

import numpy as np
import timm
import torch
from torch import nn

import adapters
from adapters import AdapterConfig, BackboneId
from adapters.data import Batches, transform_of
from selection.errors import SelectionError
from selection.evidence.attached import attach_for
from selection.evidence.backbone import load_backbone
from selection.evidence.grid import Grid, GridTask
from selection.evidence.validation_split import VALIDATION_SHARE
from selection.jobs import Cluster, Failures, Job, Runner, itself, running_on
from selection.jobs.failures import LOGS
from selection.store import TaskStore, Trial
from task2vec import Compute, Probe, Task, TaskEmbedding, embed, load_probe
from task2vec.progress import reporting


def run_grid(
    grid: Grid,
    store: TaskStore,
    *,
    probe: Probe | None = None,
    compute: Compute | None = None,
    cluster: Cluster | None = None,
    logs: str | Path = LOGS,
    progress: bool = True,
) -> None:
    """Embed the tasks of a grid, tune each configuration on each of them, and store what came out.

    What fails keeps nothing else from running; its traceback is kept in `logs`, and the run ends with an error.

    Args:
        grid: What to run. A fifth of a task's training images watches over the training; the test images score it.
        store: Where tasks and trials go; trials in it are skipped.
        probe: What to embed with; the bundled probe if not given.
        compute: Where and how to compute; what the grid says if not given.
        cluster: The Ray cluster to run on, many trials at once; this process, one after the other, if not given.
        logs: Folder for the logs of what failed, which are called by task and configuration.
        progress: Show progress and the time left on standard error.

    Raises:
        SelectionError: something failed, after all else was run; there is no such cluster; or the store has a task of
            other images under the name of one of the grid.
        StoreError: the store has a task of other classes under such a name, or cannot be written; what was finished
            before is in it.
    """
    tasks = list(grid.tasks())
    for task in tasks:
        _refuse_namesake(task, store)
    probe, compute = probe or load_probe(), compute or grid.compute
    compute = compute if cluster is None else cluster.compute(compute)
    backbone = load_backbone(grid.backbone)  # weights that cannot be had are said before anything is embedded
    failures = Failures(logs)
    with running_on(cluster) as runner, reporting(progress) as report:
        new = [t for t in tasks if not store.embeddings(probe.fingerprint, name=t.train.name)]
        embeddings = failures.sort_out(runner.run(_embedding_jobs(runner, new, probe, compute)))
        for number, (job, embedding) in enumerate(chain.from_iterable(embeddings), 1):
            known = dataclasses.replace(embedding, images=_fingerprint(job.about))
            store.add(known, name=job.about.train.name, source=job.about.source)
            report("Embedding tasks", number, len(new))
        wanted = {
            (seed, task.train.name): _missing(grid, store, task, seed)
            for seed, task in product(grid.seeds, tasks)  # every task once before any of them again
            if task.train.name in store
        }
        total = len(wanted) * len(grid.configs)
        finished = total - sum(map(len, wanted.values()))
        report(f"Trials on {grid.backbone}", finished, total)
        jobs = _trial_jobs(runner, {task.train.name: task for task in tasks}, wanted, backbone, compute)
        for together in failures.sort_out(runner.run(jobs)):
            store.add_trials_of([(job.about, trial) for job, trial in together])
            finished += len(together)
            report(f"Trials on {grid.backbone}", finished, total)
    failures.raise_any()


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
    num_classes = max(train.num_classes, validation.num_classes)
    start = time.perf_counter()
    attach_for(train.dataset, model, config, num_classes, transform=train.transform, compute=compute, seed=seed)
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
        environment=_environment(next(model.parameters()).device, compute.autocast_dtype),
        curve=result.curve,
    )


def _refuse_namesake(grid_task: GridTask, store: TaskStore) -> None:
    """Make sure that a stored task of the same name is this task: trials of one say nothing about another.

    Class names and numbers of images are compared, and where a grid embedded the task, names and sizes of the files to
    learn from and to score on. Other images in files of the same names and sizes are not noticed, nor those of a task
    that was embedded elsewhere or by an earlier version.

    Raises:
        StoreError: its classes are others.
        SelectionError: it has another number of images, or other files.
    """
    task = grid_task.train
    store.check_classes(task.name, task.class_names)
    embeddings = store.embeddings(name=task.name)
    # A task that was decoded before it was embedded counts without the images that cannot be read.
    counts = [count for e in embeddings for count in (e.num_images, e.num_images + len(e.unreadable))]
    if counts and len(task) not in counts:
        raise SelectionError(
            f"{store.location} has a task {task.name!r} of {counts[0]} images, and the grid's has {len(task)}; rename "
            "its folder, use another store, or remove the stored task first (task2vec store remove)"
        )
    known = {e.images for e in embeddings} - {""}
    if known and _fingerprint(grid_task) not in {*known, ""}:
        raise SelectionError(
            f"{store.location} has a task {task.name!r} of other images: names or sizes of files to learn from or to "
            "score on differ from the grid's; rename its folder, use another store, or remove the stored task first "
            "(task2vec store remove)"
        )


def _fingerprint(task: GridTask) -> str:
    """What tells a task's files from others: their names and sizes; empty where images lie in no files."""
    files = [part.images.files_of(np.arange(len(part))) for part in (task.train, task.test)]
    return hashlib.sha256(json.dumps(files).encode()).hexdigest()[:32] if all(files) else ""


def _embedding_jobs(runner: Runner, tasks: Iterable[GridTask], probe: Probe, compute: Compute) -> Iterator[Job]:
    """A job for each task to embed; it is about the task."""
    shared = runner.share("probe", itself, probe)
    for task in tasks:
        name = task.train.name
        images = runner.share(f"images of {name} for the probe", _decoded, task.train, probe.transform, compute)
        yield Job(f"{name}, embedding", _embed, (images, shared, compute), task)


def _trial_jobs(
    runner: Runner,
    tasks: dict[str, GridTask],
    wanted: dict[tuple[int, str], list[AdapterConfig]],
    backbone: nn.Module,
    compute: Compute,
) -> Iterator[Job]:
    """A job for each trial that is wanted, by seed and name of its task; it is about that name."""
    shared = runner.share("backbone", itself, backbone)
    transform = transform_of(backbone)
    for (seed, name), configs in wanted.items():
        if configs:
            data = runner.share(f"images of {name}", _batches, tasks[name], transform, compute)
        for config in configs:
            yield Job(f"{name}, {config.label}, seed {seed}", _trial, (shared, config, data, seed, compute), name)


def _decoded(task: Task, transform: adapters.data.Transform, compute: Compute) -> Task:
    return task.decoded(transform, workers=compute.workers)


def _embed(task: Task, probe: Probe, compute: Compute) -> TaskEmbedding:
    return embed(task, probe, compute=compute)


def _batches(task: GridTask, transform: adapters.data.Transform, compute: Compute) -> tuple[Batches, Batches, Batches]:
    """Images to learn from, to watch and to score by."""
    learning, validation = task.train.split(VALIDATION_SHARE)
    workers = compute.workers
    return (
        Batches(learning, transform, workers=workers),
        Batches(validation, transform, workers=workers),
        Batches(task.test, transform, workers=workers),
    )


def _trial(
    backbone: nn.Module, config: AdapterConfig, data: tuple[Batches, Batches, Batches], seed: int, compute: Compute
) -> Trial:
    return run_trial(copy.deepcopy(backbone), config, *data, seed=seed, compute=compute)


def _missing(grid: Grid, store: TaskStore, task: GridTask, seed: int) -> list[AdapterConfig]:
    """What is left to run on a stored task."""
    wanted = BackboneId.of_name(grid.backbone)
    done = {t.config for t in store.task(task.train.name).trials if t.backbone.is_same(wanted) and t.seed == seed}
    return [config for config in grid.configs if config not in done]


def _environment(device: torch.device, autocast: torch.dtype | None) -> str:
    kind = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.machine()
    number = "float32" if autocast is None else str(autocast).removeprefix("torch.")
    return f"torch {torch.__version__}, timm {timm.__version__}, {kind}, {torch.get_num_threads()} threads, {number}"
