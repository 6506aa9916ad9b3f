"""Run a grid of trials: every configuration on every task, each finished trial written at once.

A run that is killed goes on where it stopped: trials that stand in the file are not run again.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from pathlib import Path

import torch
from torch import nn

import adapters
from adapters import AdapterConfig
from adapters.data import Batches, Transform, transform_of
from selection.trials import Trial
from selection.tuning import VALIDATION_SHARE, load_backbone
from task2vec import Task
from task2vec.progress import reporting


def run_grid(
    tasks: Iterable[tuple[Task, Task]],
    configs: list[AdapterConfig],
    path: Path,
    *,
    backbone: str = adapters.DEFAULT_BACKBONE,
    seeds: tuple[int, ...] = (0,),
    autocast: torch.dtype | None = None,
    progress: bool = True,
) -> None:
    """Tune each configuration on each task and append the trials to a file of JSON lines.

    Args:
        tasks: Pairs of the images to learn from and those to score on. A fifth of the former chooses the epoch.
        configs: What to try.
        path: The file; trials in it are skipped.
        backbone: A timm model with pretrained weights.
        seeds: Each configuration is tuned once for each.
        autocast: Train in this type where that is safe.
        progress: Show progress and the time left on standard error.
    """
    lines = path.read_text().splitlines() if path.exists() else []
    done = {(task, trial.config, trial.seed) for task, trial in map(Trial.from_line, lines)}
    pairs = list(tasks)
    total, finished = len(pairs) * len(configs) * len(seeds), 0
    with reporting(progress) as report:
        for train, test in pairs:
            data: tuple[Batches, Batches, Batches] | None = None
            for config in configs:
                for seed in seeds:
                    if (train.name, config, seed) not in done:
                        model = load_backbone(backbone)
                        data = data or _decode(train, test, transform_of(model))
                        trial = run_trial(model, config, *data, seed=seed, autocast=autocast)
                        with path.open("a") as file:
                            file.write(trial.to_line(train.name))
                    finished += 1
                    report(f"Trials on {backbone}", finished, total)


def run_trial(
    model: nn.Module,
    config: AdapterConfig,
    train: Batches,
    validation: Batches,
    test: Batches,
    *,
    seed: int,
    autocast: torch.dtype | None = None,
) -> Trial:
    """Tune one configuration on a fresh backbone and score it on the test images."""
    name, fingerprint = adapters.backbone_name(model), adapters.backbone_fingerprint(model)
    num_classes = train.num_classes
    adapters.attach(model, config, num_classes, seed=seed)
    start = time.perf_counter()
    result = adapters.fit(model, train, validation, seed=seed, autocast=autocast, progress=False)
    seconds = time.perf_counter() - start
    return Trial(
        config=config,
        backbone=name,
        backbone_fingerprint=fingerprint,
        score=adapters.evaluate(model, test).accuracy,
        validation=result.best.accuracy,
        parameters=adapters.num_adapter_parameters(model),
        seconds=seconds,
        seed=seed,
        num_images=len(train),
    )


def _decode(train: Task, test: Task, transform: Transform) -> tuple[Batches, Batches, Batches]:
    learning, validation = train.split(VALIDATION_SHARE)
    return Batches(learning, transform), Batches(validation, transform), Batches(test, transform)
