r"""The evidence on the pretrained backbone: every configuration on every task of the ground, one line a trial.

python benchmarks/evidence.py run datasets/ weights.safetensors -o benchmarks/results/trials.jsonl    resumes
python benchmarks/evidence.py facts datasets/ weights.safetensors -o benchmarks/results/facts.jsonl \
    --embeddings benchmarks/results/embeddings
python benchmarks/evidence.py means datasets/ weights.safetensors --tried benchmarks/results/trials.jsonl
python benchmarks/evidence.py pace datasets/ weights.safetensors -o benchmarks/results/paces.jsonl    on a quiet machine

Finished trials are appended at once. The waves come in an order in which every beginning is useful: all tasks with a
few configurations that differ most, first on 500 images, then on 100, where cheap ones come near, and then the others.
Trials run beside other work, which their seconds tell; `pace` measures what each configuration takes by itself.
"""

from __future__ import annotations

import json
import multiprocessing
import os
from collections import Counter
from collections.abc import Iterable, Iterator
from functools import partial
from itertools import product
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import json_lines
import numpy as np
import torch
import typer
from ground.tasks import MOST_CLASSES_OF_100, GroundTask, file_name, ground
from ground.vit import NAME, batches_of, load_vit, transform
from safetensors.numpy import load_file, save_file

import task2vec
from adapters import AdapterConfig
from selection.evidence.library import mean_features_file
from selection.evidence.runner import run_trial
from selection.recommendation.facts import facts_of
from selection.store.trial import Trial
from task2vec import Compute
from task2vec.inputs import ProbeInputs
from task2vec.progress import silent

Precision = Annotated[str, typer.Option(help="bfloat16, or none for float32 on a processor that is slow in it")]
EARLY, LATE = list(range(6)), list(range(6, 12))

# Learning rates are those of the pilot (docs/pilot.md), and so is the weight decay of classifiers that learn alone or
# beside a few parameters. The first configurations differ most.
FIRST: list[dict[str, Any]] = [
    {"method": "linear", "learning_rate": 0.003, "weight_decay": 10.0, "epochs": 100},
    {"method": "head2toe", "learning_rate": 0.0005, "weight_decay": 10.0, "epochs": 50},
    {"method": "ssf", "learning_rate": 0.01, "weight_decay": 3.0, "epochs": 20},
    {"method": "full", "learning_rate": 0.0003, "epochs": 20},
    {"method": "lora", "rank": 8, "learning_rate": 0.005, "epochs": 20},
]
WIDE: list[dict[str, Any]] = [
    *FIRST,
    {"method": "lora", "rank": 16, "blocks": EARLY, "learning_rate": 0.005, "epochs": 20},
    {"method": "lora", "rank": 16, "blocks": LATE, "learning_rate": 0.005, "epochs": 20},
    {"method": "lora", "rank": 8, "placement": "mass", "learning_rate": 0.005, "epochs": 20},
]
OTHERS: list[dict[str, Any]] = [
    {"method": "repadapter", "bottleneck": 8, "learning_rate": 0.01, "epochs": 20},
    {"method": "pfeiffer", "bottleneck": 64, "learning_rate": 0.01, "epochs": 20},
    {"method": "full", "learning_rate": 0.0001, "epochs": 20},
    {"method": "vpt_deep", "prompts": 10, "learning_rate": 0.02, "epochs": 20},
    {"method": "bitfit", "learning_rate": 0.01, "epochs": 20},
    {"method": "full", "blocks": LATE, "learning_rate": 0.0003, "epochs": 20},
    {"method": "fact", "rank": 16, "learning_rate": 0.01, "epochs": 20},
    {"method": "adaptformer", "bottleneck": 64, "learning_rate": 0.005, "epochs": 20},
    {"method": "ssf", "learning_rate": 0.01, "weight_decay": 1e-4, "epochs": 20},
    {"method": "ssf", "learning_rate": 0.003, "weight_decay": 1e-4, "epochs": 20},
    {"method": "norm", "learning_rate": 0.01, "epochs": 20},
]
WAVES: list[tuple[int, list[dict[str, Any]]]] = [
    (500, FIRST), (100, FIRST), (500, WIDE), (100, WIDE), (500, OTHERS), (100, OTHERS)
]  # fmt: skip

app = typer.Typer(add_completion=False, help=__doc__)


class Job(NamedTuple):
    """Some trials on the same images.

    Attributes:
        task: Its name on the ground.
        images: Training images.
        seed: Of the draw of the images and of the training.
        configs: What to tune.
    """

    task: str
    images: int
    seed: int
    configs: tuple[AdapterConfig, ...]


@app.callback()
def main() -> None:
    """Commands around the file of trials."""


@app.command()
def run(
    datasets: Annotated[Path, typer.Argument(help="folder of ImageFolder zips with train and test splits")],
    weights: Annotated[Path, typer.Argument(help="weights of vit_tiny_patch16_224")],
    out: Annotated[Path, typer.Option("--out", "-o", help="JSON lines, appended to")],
    processes: Annotated[int, typer.Option(help="processes of one thread each")] = 2,
    seed: Annotated[int, typer.Option(help="of the draw of the images and of the training")] = 0,
    images: Annotated[int | None, typer.Option(help="only tasks with so many training images")] = None,
    task: Annotated[list[str] | None, typer.Option(help="only these tasks of the ground")] = None,
    method: Annotated[list[str] | None, typer.Option(help="only configurations of these methods")] = None,
    precision: Precision = "bfloat16",
) -> None:
    """Run the trials that `out` lacks."""
    out.parent.mkdir(parents=True, exist_ok=True)
    asked = (
        job._replace(configs=tuple(c for c in job.configs if method is None or c.method in method))
        for job in missing(datasets, seed, out)
        if images in (None, job.images) and (task is None or job.task in task)
    )
    jobs = [job for job in asked if job.configs]
    print(f"{sum(len(job.configs) for job in jobs)} trials to run", flush=True)
    with multiprocessing.get_context("spawn").Pool(processes, maxtasksperchild=8) as pool:
        for _ in pool.imap_unordered(partial(work, datasets, weights, out, one_core(precision)), jobs):
            pass


def missing(datasets: Path, seed: int, out: Path) -> Iterator[Job]:
    """What is not in `out` yet, wave by wave."""
    lines = [Trial.from_line(line) for line in out.read_text().splitlines()] if out.exists() else []
    done = {(name, trial.seed, trial.config) for name, trial in lines}
    tasks = by_turns(ground(datasets))
    for images, wave in WAVES:
        configs = [AdapterConfig.from_dict(settings) for settings in wave]
        for task in tasks:
            if images == 100 and task.num_classes > MOST_CLASSES_OF_100:
                continue
            left = tuple(c for c in configs if (f"{task.name}@{images}", seed, c) not in done)
            done |= {(f"{task.name}@{images}", seed, c) for c in left}
            if left:
                yield Job(task.name, images, seed, left)


def by_turns(tasks: Iterable[GroundTask]) -> list[GroundTask]:
    """One task of every source, then another one of those that have two, and so on: what is new comes first."""
    seen = Counter[str]()
    turns = []
    for task in tasks:
        turns.append((seen[task.source], task))
        seen[task.source] += 1
    return [task for _, task in sorted(turns, key=lambda pair: pair[0])]


def one_core(precision: str) -> Compute:
    """This processor, without processes that read ahead."""
    return Compute("cpu", precision, workers=0)


def work(datasets: Path, weights: Path, out: Path, compute: Compute, job: Job) -> None:
    """Run a job and append each trial when it is finished."""
    torch.set_num_threads(1)
    task = next(t for t in ground(datasets) if t.name == job.task)
    learning, validation, test = batches_of(task, job.images, job.seed)
    for config in job.configs:
        trial = run_trial(
            load_vit(weights), config, learning, validation, test,
            seed=job.seed, compute=compute,
        )  # fmt: skip
        with out.open("a") as file:  # a line is far shorter than what the system appends in one piece
            file.write(trial.to_line(f"{job.task}@{job.images}"))
        print(f"{job.task}@{job.images} {config.label}: {trial.score:.3f} in {trial.seconds:.0f} s", flush=True)


@app.command()
def facts(
    datasets: Annotated[Path, typer.Argument(help="folder of ImageFolder zips with train and test splits")],
    weights: Annotated[Path, typer.Argument(help="weights of vit_tiny_patch16_224")],
    out: Annotated[Path, typer.Option("--out", "-o", help="JSON lines, appended to")],
    embeddings: Annotated[Path, typer.Option(help="folder for TASK.safetensors and TASK.backbone.safetensors")],
    tried: Annotated[Path | None, typer.Option(help="only tasks that have trials in this file")] = None,
    seed: Annotated[int, typer.Option(help="of the draw of the images")] = 0,
    precision: Precision = "bfloat16",
) -> None:
    """Embed every task, under the bundled probe and under the backbone, and read it through the backbone."""
    embeddings.mkdir(parents=True, exist_ok=True)
    known = {row["task"] for row in json_lines.so_far(out)}
    wanted = None if tried is None else {Trial.from_line(line)[0] for line in tried.read_text().splitlines()}
    torch.set_num_threads(1)
    model, probe = load_vit(weights), task2vec.load_probe()
    own = task2vec.Probe(load_vit(weights), classifier="head", transform=transform(), name=NAME)
    for images, task in product((500, 100), ground(datasets)):
        name = f"{task.name}@{images}"
        if (
            name in known
            or (wanted is not None and name not in wanted)
            or (images == 100 and task.num_classes > MOST_CLASSES_OF_100)
        ):
            continue
        labelled = task.labelled(images, seed)
        found = facts_of(labelled, model, transform=transform(), compute=one_core(precision))
        for file, reader in (
            (f"{file_name(name)}.safetensors", probe),
            (f"{file_name(name)}.backbone.safetensors", own),
        ):
            if not (embeddings / file).exists():
                task2vec.embed(labelled, reader).save(embeddings / file)
        json_lines.append(out, {"task": name, "group": task.group, "source": task.source} | found.to_dict())
        print(f"{name}: linear probe {found.linear_probe:.3f}", flush=True)


@app.command()
def means(
    datasets: Annotated[Path, typer.Argument(help="folder of ImageFolder zips with train and test splits")],
    weights: Annotated[Path, typer.Argument(help="weights of vit_tiny_patch16_224")],
    tried: Annotated[Path, typer.Option(help="what `run` appended to: the tasks")],
    seed: Annotated[int, typer.Option(help="of the draw of the images")] = 0,
) -> None:
    """Ship the mean of the backbone's features over the images of every task that has trials, for what it is worth in
    place of the embedding.
    """
    torch.set_num_threads(1)
    file = mean_features_file(NAME)
    found = load_file(file) if file.exists() else {}
    own = task2vec.Probe(load_vit(weights), classifier="head", transform=transform(), name=NAME)
    wanted = {Trial.from_line(line)[0] for line in tried.read_text().splitlines()} - found.keys()
    for images, task in product((500, 100), ground(datasets)):
        name = f"{task.name}@{images}"
        if name in wanted:
            labelled = task.labelled(images, seed)
            inputs = ProbeInputs(labelled, own, from_layer=None, batch_size=64, report=silent)
            found[name] = inputs.features.mean(axis=0).astype(np.float32)
            save_file(found, file)
            print(name, flush=True)


@app.command()
def pace(
    datasets: Annotated[Path, typer.Argument(help="folder of ImageFolder zips with train and test splits")],
    weights: Annotated[Path, typer.Argument(help="weights of vit_tiny_patch16_224")],
    out: Annotated[Path, typer.Option("--out", "-o", help="JSON lines, written anew")],
    precision: Precision = "bfloat16",
) -> None:
    """Measure what each configuration's training takes on one core when nothing else runs.

    Every epoch takes the same, so a short and a longer training tell the whole one's seconds. Weight decay takes
    none, so that configurations that differ in nothing else have one pace.
    """
    torch.set_num_threads(1)
    task = ground(datasets)[0]
    paces = []
    batches = {images: batches_of(task, images, seed=0) for images in dict.fromkeys(images for images, _ in WAVES)}
    configs = ((images, AdapterConfig.from_dict(settings)) for images, wave in WAVES for settings in wave)
    for images, config in dict.fromkeys((images, config.replace(weight_decay=0)) for images, config in configs):
        lengths = (max(1, config.epochs // 20), 3 * max(1, config.epochs // 20))
        short, longer = (
            run_trial(
                load_vit(weights), config.replace(epochs=epochs), *batches[images], seed=0, compute=one_core(precision)
            ).seconds
            for epochs in lengths
        )
        an_epoch = (longer - short) / (lengths[1] - lengths[0])
        seconds = short + an_epoch * (config.epochs - lengths[0])
        paces.append({"config": config.to_dict(), "images": images, "seconds": seconds})
        print(f"{config.label} on {images} images: {seconds:.1f} s", flush=True)
    out.write_text("".join(json.dumps(line) + "\n" for line in paces))


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    app()
