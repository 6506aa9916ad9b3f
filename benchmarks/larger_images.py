"""What is expected of configurations where images are read at 224 pixels, and what they reach; trials are of 96 pixels.

python benchmarks/larger_images.py datasets/ weights.safetensors -o benchmarks/results/larger_images    resumes

docs/evaluation.md shows what comes of it (benchmarks/evaluation_page.py).
"""

from __future__ import annotations

import dataclasses
import multiprocessing
import os
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Annotated, NamedTuple

import json_lines
import torch
import typer
from evidence import FIRST, Precision, one_core
from experts import stored_embedding
from ground.tasks import ground
from ground.vit import NAME, batches_of, load_vit, transform

import selection
from adapters import AdapterConfig
from selection.evidence.runner import run_trial
from selection.recommendation.facts import facts_of
from selection.store import BackboneFacts, TaskStore, Trial
from task2vec import Compute

IMAGE_SIZE = 224
IMAGES = 100
# Natural, specialised and structured in turns, each of another source.
TASKS = (
    *("flowers17", "blood_cells", "sprites: where"),
    *("dogs_cats", "chest_xray", "cifar10: rotation"),
    *("weather4", "asl_mnst"),
)
# The second configurations take far longer, so that all tasks have the first ones before.
CONFIGS = tuple(AdapterConfig.from_dict(settings) for settings in FIRST)
FACTS, TRIALS = "facts.jsonl", "trials.jsonl"
RESULTS = Path(__file__).parent / "results" / "larger_images"


class Job(NamedTuple):
    """One training."""

    task: str
    config: AdapterConfig


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What was expected of a configuration on a task at 224 pixels, and what it reached.

    Attributes:
        task: Its name.
        source: Where its images come from.
        config: What was tuned.
        level: Accuracy of a linear probe, cross-validated.
        expected: Accuracy.
        interval: Of 80%.
        reached: Accuracy on the test images.
    """

    task: str
    source: str
    config: AdapterConfig
    level: float
    expected: float
    interval: tuple[float, float]
    reached: float


def outcomes(store: TaskStore, results: Path = RESULTS) -> list[Outcome]:
    """What the stored trials at 96 pixels of other sources make expected, beside what was reached at 224."""
    sources = {task.name: task.source for task in store.tasks()}
    reached: dict[str, list[Trial]] = {}
    for line in (results / TRIALS).read_text().splitlines():
        name, trial = Trial.from_line(line)
        reached.setdefault(name, []).append(trial)
    found = []
    for row in json_lines.read(results / FACTS):
        task, source = row["task"], row["source"]
        recommendation = selection.recommend(
            stored_embedding(task, IMAGES),
            store,
            NAME,
            facts=BackboneFacts.from_dict(row["facts"]),
            exclude=[name for name, other in sources.items() if other == source],
        )
        expected = {candidate.config: candidate for candidate in recommendation.ranking}
        found += [
            Outcome(
                task,
                source,
                trial.config,
                recommendation.level,
                expected[trial.config].accuracy,
                expected[trial.config].interval,
                trial.score,
            )
            for trial in reached.get(task, [])
            if trial.config in expected
        ]
    return found


def main(
    datasets: Annotated[Path, typer.Argument(help="folder of ImageFolder zips with train and test splits")],
    weights: Annotated[Path, typer.Argument(help="weights of vit_tiny_patch16_224")],
    out: Annotated[Path, typer.Option("--out", "-o", help="folder, added to")] = RESULTS,
    processes: Annotated[int, typer.Option(help="processes of one thread each")] = 2,
    precision: Precision = "bfloat16",
) -> None:
    """Read the tasks through the backbone at 224 pixels and tune it on them, as far as `out` lacks it."""
    out.mkdir(parents=True, exist_ok=True)
    known = {row["task"] for row in json_lines.so_far(out / FACTS)}
    look = partial(_look, datasets, weights, out, one_core(precision))
    tune = partial(_tune, datasets, weights, out, one_core(precision))
    with multiprocessing.get_context("spawn").Pool(processes, maxtasksperchild=4) as pool:
        for _ in pool.imap_unordered(look, [task for task in TASKS if task not in known]):
            pass
        for _ in pool.imap_unordered(tune, list(_missing(out / TRIALS))):
            pass


def _missing(trials: Path) -> Iterator[Job]:
    lines = trials.read_text().splitlines() if trials.exists() else []
    done = {(name, trial.config) for name, trial in map(Trial.from_line, lines)}
    for wave in (CONFIGS[:3], CONFIGS[3:]):
        yield from (Job(task, config) for task in TASKS for config in wave if (task, config) not in done)


def _look(datasets: Path, weights: Path, out: Path, compute: Compute, name: str) -> None:
    torch.set_num_threads(1)
    task = next(t for t in ground(datasets) if t.name == name)
    model = load_vit(weights, IMAGE_SIZE)
    found = facts_of(task.labelled(IMAGES, seed=0), model, transform=transform(IMAGE_SIZE), compute=compute)
    json_lines.append(out / FACTS, {"task": name, "group": task.group, "source": task.source, "facts": found.to_dict()})
    print(f"{name}: linear probe {found.linear_probe:.3f}", flush=True)


def _tune(datasets: Path, weights: Path, out: Path, compute: Compute, job: Job) -> None:
    torch.set_num_threads(1)
    task = next(t for t in ground(datasets) if t.name == job.task)
    batches = batches_of(task, IMAGES, 0, IMAGE_SIZE)
    trial = run_trial(load_vit(weights, IMAGE_SIZE), job.config, *batches, seed=0, compute=compute)
    with (out / TRIALS).open("a") as file:  # a line is far shorter than what the system appends in one piece
        file.write(trial.to_line(job.task))
    print(f"{job.task} {job.config.label}: {trial.score:.3f} in {trial.seconds:.0f} s", flush=True)


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    typer.run(main)
