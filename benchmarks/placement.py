"""Where to put parameters: rules of placement at equal numbers of parameters, on the pretrained backbone.

python benchmarks/placement.py adopt trials.jsonl datasets/ -o benchmarks/results/placement/
python benchmarks/placement.py run datasets/ weights.safetensors -o benchmarks/results/placement/    resumes
python benchmarks/placement.py cost datasets/ weights.safetensors -o benchmarks/results/placement/   alone
python benchmarks/placement.py contribute benchmarks/results/placement/ trials.jsonl paces.jsonl
python benchmarks/placement_page.py benchmarks/results/placement/                                     docs/placement.md

`adopt` takes over the grid's trials of LoRA everywhere, early and late, which are the same trainings, and `contribute`
gives the grid those of LoRA everywhere with other seeds, and placed by the Fisher's mass. `run` measures every task's
sensitivity (a safetensors file each), then trains what is missing, and appends one JSON line a training to
`trainings.jsonl`. The jobs come in an order in which every beginning is useful: one seed at the parameters of LoRA of
rank 8, then the other numbers of parameters, then the other seeds.
"""

from __future__ import annotations

import copy
import dataclasses
import multiprocessing
import os
import time
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from itertools import product
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import json_lines
import numpy as np
import torch
import typer
from adalora import adalora
from ground.tasks import GroundTask, ground
from ground.vit import batches_of, load_vit, transform
from torch import Tensor, nn

import adapters
import task2vec
from adapters import AdapterConfig
from adapters.data import Batches
from selection.evidence.placed import images_measured
from selection.store.trial import Trial
from task2vec import Compute, Task

TASKS = (
    "cifar10", "tin_birds", "birds6", "caltech101", "tin_cats",
    "asl_mnst", "att_faces", "blood_cells", "brodatz32", "busi",
    "sprites: where", "sprites: angle", "sprites: size", "cifar10: rotation", "cifar10: blur",
)  # fmt: skip
"""Five of each group: natural, specialised, structured. The grid has LoRA everywhere, early and late on all of them."""

TRAININGS, MEASURED, COSTS = "trainings.jsonl", "measured.jsonl", "costs.jsonl"  # in the folder of results
IMAGES, SEEDS = 500, (0, 1, 2)
MULTIPLES = (1.0, 0.5, 2.0, 0.25)  # of the parameters of LoRA at rank 8, in the order in which they are run
BATCH_SIZE, EPOCHS = 32, 20
LORA = {"method": "lora", "rank": 8, "learning_rate": 0.005, "epochs": EPOCHS}
SPARSE_RATE = 0.001  # of gps and fish, their default
TENTH = EPOCHS // 10  # epochs after which the Fisher is measured once more

MEASURES: dict[str, dict[str, Any]] = {
    "start": {},
    "labels": {"method": "empirical"},
    "weak": {"l2": 0.01},
    "tenth": {},
    "few": {},
}
"""Settings of `task2vec.sensitivity`: as embeddings are made; at the dataset's labels; with a weak penalty on the
classifier; after a tenth of training LoRA everywhere, folded in; and on no more images than `tune` measures."""


class Placement(NamedTuple):
    """One way to place LoRA's ranks.

    Attributes:
        rule: Of `adapters.RULES`.
        measure: Which sensitivity it reads; None for rules that read none.
        shown: What it is called on the page.
    """

    rule: str
    measure: str | None
    shown: str


PLACEMENTS = {
    "uniform": Placement("uniform", None, "the same rank everywhere"),
    "relative": Placement("relative_mass", "start", "Fisher's mass, relative to other tasks"),
    "mass": Placement("mass", "start", "Fisher's mass"),
    "usual": Placement("usual_mass", "start", "Fisher's mass of other tasks, without the task's own"),
    "early": Placement("early", None, "first half of the blocks"),
    "late": Placement("late", None, "last half of the blocks"),
    "random": Placement("random", None, "a random half of the blocks"),
    "root": Placement("root_mass", "start", "square root of Fisher's mass"),
    "per_parameter": Placement("mass_per_parameter", "start", "Fisher of a single weight"),
    "spt": Placement("mass", "labels", "squared gradient at the labels (SPT's criterion)"),
    "mass_few": Placement("mass", "few", "Fisher's mass on few of the images, as `tune` measures it"),
    "relative_weak": Placement("relative_mass", "weak", "relative mass, weak penalty on the classifier"),
    "relative_tenth": Placement("relative_mass", "tenth", "relative mass after a tenth of training"),
    "relative_labels": Placement("relative_mass", "labels", "squared gradient at the labels, relative to other tasks"),
}
OTHERS = {
    "gps": "largest gradients of each neuron (GPS)",
    "fish": "largest Fisher of all weights (FISH mask)",
    "adalora": "ranks learned in training (AdaLoRA, PEFT)",
}
WAYS = {name: placement.shown for name, placement in PLACEMENTS.items()} | OTHERS


class Job(NamedTuple):
    """One training: a task, a seed, a way, and the parameters as a multiple of those of LoRA at rank 8."""

    task: str
    seed: int
    way: str
    multiple: float


app = typer.Typer(add_completion=False, help=__doc__)


def jobs(tasks: Sequence[str] = TASKS, seeds: Sequence[int] = SEEDS) -> list[Job]:
    """All trainings, in an order in which every beginning is useful."""
    return [Job(task, seed, way, multiple) for seed, multiple, way, task in product(seeds, MULTIPLES, WAYS, tasks)]


def missing(asked: Iterable[Job], out: Path) -> list[Job]:
    """Those that `out` has no line of."""
    done = {Job(row["task"], row["seed"], row["way"], row["multiple"]) for row in json_lines.so_far(out / TRAININGS)}
    return [job for job in asked if job not in done]


@app.command()
def adopt(
    trials: Annotated[Path, typer.Argument(help="what `evidence.py run` wrote")],
    datasets: Annotated[Path, typer.Argument(help="folder of ImageFolder zips with train and test splits")],
    out: Annotated[Path, typer.Option("--out", "-o", help="folder, added to")],
) -> None:
    """Take over the grid's trials that are trainings of the comparison."""
    out.mkdir(parents=True, exist_ok=True)
    tasks = {task.name: task for task in ground(datasets) if task.name in TASKS}
    done = {Job(row["task"], row["seed"], row["way"], row["multiple"]) for row in json_lines.so_far(out / TRAININGS)}
    places = {None: ("uniform", 8), tuple(range(6)): ("early", 16), tuple(range(6, 12)): ("late", 16)}
    for line in trials.read_text().splitlines():
        name, trial = Trial.from_line(line)
        base, _, images = name.partition("@")
        settings = trial.config.to_dict()
        way, rank = places.get(trial.config.blocks, ("", 0))
        same = trial.config == AdapterConfig(**LORA | {"rank": rank, "blocks": trial.config.blocks})
        job = Job(base, trial.seed, way, 1.0)
        if base in tasks and int(images) == IMAGES and same and job not in done:
            row = job._asdict() | {"group": tasks[base].group, "source": tasks[base].source, "settings": settings}
            row |= {"budget": trial.parameters, "parameters": trial.parameters, "seconds": trial.seconds}
            curve = [accuracy for accuracy, _ in trial.curve]
            json_lines.append(out / TRAININGS, row | {"curve": curve, "score": trial.score})


@app.command()
def contribute(
    out: Annotated[Path, typer.Argument(help="the folder that `run` added to")],
    trials: Annotated[Path, typer.Argument(help="what `evidence.py run` wrote, appended to")],
    paces: Annotated[Path, typer.Argument(help="what `evidence.py pace` wrote, appended to")],
) -> None:
    """Give the grid the trainings of LoRA at rank 8, everywhere and placed by the Fisher's mass, as trials of its own.

    What is known of a trial beside its outcome is that of the first seed's of LoRA everywhere, which draws as many
    images. The seconds of one that is placed are those of its training and of the sensitivity, which were measured
    beside one another.
    """
    everywhere = AdapterConfig(**LORA)
    placed = everywhere.replace(placement=PLACEMENTS["mass"].rule)
    configs = {"uniform": everywhere, "mass": placed}
    lines = [Trial.from_line(line) for line in trials.read_text().splitlines()]
    known = {(name, trial.seed, trial.config): trial for name, trial in lines}
    taken = {(m["task"], m["seed"]): m["seconds"] for m in json_lines.so_far(out / MEASURED) if m["measure"] == "start"}
    for row in json_lines.so_far(out / TRAININGS):
        name, config = f"{row['task']}@{IMAGES}", configs.get(row["way"])
        like = known.get((name, SEEDS[0], everywhere))
        if config is None or row["multiple"] != 1 or like is None or (name, row["seed"], config) in known:
            continue
        measuring = taken[row["task"], row["seed"]] if config == placed else 0
        versions, _, precision = like.environment.rpartition(", ")
        trial = dataclasses.replace(
            like,
            config=config,
            environment=f"{versions}, {row.get('precision', precision)}",
            score=row["score"],
            validation=row["curve"][-1],
            parameters=row["parameters"],
            seconds=row["seconds"] + measuring,
            seed=row["seed"],
            curve=tuple((accuracy, row["seconds"] / len(row["curve"])) for accuracy in row["curve"]),
        )
        with trials.open("a") as file:
            file.write(trial.to_line(name))
    measured = json_lines.read(paces)
    uniform = (row for row in json_lines.so_far(out / TRAININGS) if (row["way"], row["multiple"]) == ("uniform", 1.0))
    training = {(row["task"], row["seed"]): row["seconds"] for row in uniform}
    share = float(np.median([taken[key] / training[key] for key in set(taken) & set(training)]))
    wanted = placed.replace(weight_decay=0).to_dict()
    if not any(pace["config"] == wanted for pace in measured):
        alone = next(
            pace for pace in measured
            if pace["images"] == IMAGES and pace["config"] == everywhere.replace(weight_decay=0).to_dict()
        )  # fmt: skip
        json_lines.append(paces, {"config": wanted, "images": IMAGES, "seconds": alone["seconds"] * (1 + share)})


@app.command()
def run(
    datasets: Annotated[Path, typer.Argument(help="folder of ImageFolder zips with train and test splits")],
    weights: Annotated[Path, typer.Argument(help="weights of vit_tiny_patch16_224")],
    out: Annotated[Path, typer.Option("--out", "-o", help="folder, added to")],
    processes: Annotated[int, typer.Option(help="processes of one thread each")] = 2,
    task: Annotated[list[str] | None, typer.Option(help="only these tasks")] = None,
    seed: Annotated[list[int] | None, typer.Option(help="only these seeds")] = None,
    way: Annotated[list[str] | None, typer.Option(help=f"only these ways: {', '.join(WAYS)}")] = None,
    multiple: Annotated[list[float] | None, typer.Option(help="only these multiples of the parameters")] = None,
    also: Annotated[
        list[str] | None, typer.Option(help=f"measure these sensitivities too: {', '.join(MEASURES)}")
    ] = None,
    precision: Annotated[
        str, typer.Option(help="bfloat16, or none for float32 on a processor that is slow in it")
    ] = "bfloat16",
) -> None:
    """Measure and train what is missing."""
    autocast = Compute("cpu", precision).autocast_dtype
    tasks, seeds = tuple(task or TASKS), tuple(seed or SEEDS)
    out.mkdir(parents=True, exist_ok=True)
    asked = [
        job
        for job in jobs(tasks, seeds)
        if (way is None or job.way in way) and (multiple is None or job.multiple in multiple)
    ]
    todo = missing(asked, out)
    needed = {PLACEMENTS[job.way].measure for job in todo if job.way in PLACEMENTS} - {None} | set(also or ())
    measured = [
        (name, seed, kind)
        for seed, kind, name in product(seeds, MEASURES, TASKS)  # all of them: some rules compare with the others
        if kind in needed and not sensitivity_file(out, name, seed, kind).exists()
    ]
    print(f"{len(measured)} sensitivities to measure, {len(todo)} trainings to run", flush=True)
    with multiprocessing.get_context("spawn").Pool(processes, maxtasksperchild=8) as pool:
        for _ in pool.imap_unordered(partial(measure, datasets, weights, out, autocast), measured):
            pass
        for _ in pool.imap_unordered(partial(train, datasets, weights, out, autocast), todo):
            pass


@app.command()
def cost(
    datasets: Annotated[Path, typer.Argument(help="folder of ImageFolder zips with train and test splits")],
    weights: Annotated[Path, typer.Argument(help="weights of vit_tiny_patch16_224")],
    out: Annotated[Path, typer.Option("--out", "-o", help="folder, added to")],
    task: Annotated[list[str] | None, typer.Option(help="only these tasks")] = None,
    kind: Annotated[list[str] | None, typer.Option(help="only these sensitivities")] = None,
    repeats: Annotated[int, typer.Option(help="of each, in turns")] = 3,
) -> None:
    """Time sensitivities and epochs of LoRA in turns, in one process of one thread, with nothing else running."""
    torch.set_num_threads(1)
    for name in task or TASKS:
        labelled, _, _ = _task(datasets, name).draw(IMAGES, 0)
        learning, _, _ = batches_of(_task(datasets, name), IMAGES, 0)
        kinds, taken = tuple(kind or ("start", "few")), {}
        for _, what in product(range(repeats), (*kinds, "epoch")):
            model = load_vit(weights)
            if what == "epoch":
                adapters.attach(model, AdapterConfig(**LORA | {"epochs": 1}), learning.num_classes, seed=0)
            start = time.perf_counter()
            if what == "epoch":
                adapters.fit(model, learning, batch_size=BATCH_SIZE, keep="last", seed=0, progress=False)
            else:
                sensitivity_of(labelled, model, what, 0)
            taken.setdefault(what, []).append(time.perf_counter() - start)
        medians = {what: round(float(np.median(seconds)), 3) for what, seconds in taken.items()}
        json_lines.append(out / COSTS, {"task": name} | medians)
        print(f"{name}: {medians}", flush=True)


def sensitivity_of(labelled: Task, model: nn.Module, kind: str, seed: int) -> task2vec.Sensitivity:
    """One of `MEASURES` of a draw."""
    few = images_measured(labelled.num_classes) if kind == "few" else None
    return task2vec.sensitivity(labelled, model, transform=transform(), max_samples=few, seed=seed, **MEASURES[kind])


def sensitivity_file(out: Path, task: str, seed: int, kind: str) -> Path:
    """Where one of `MEASURES` of a draw is kept."""
    return out / "sensitivity" / f"{task.replace(': ', '__')}@{seed}.{kind}.safetensors"


def measure(datasets: Path, weights: Path, out: Path, autocast: torch.dtype | None, what: tuple[str, int, str]) -> None:
    """Measure one sensitivity on a draw's training images, and write it with the seconds that it took."""
    torch.set_num_threads(1)
    name, seed, kind = what
    task = _task(datasets, name)
    labelled, _, _ = task.draw(IMAGES, seed)
    model = load_vit(weights)
    if kind == "tenth":
        learning, validation, _ = batches_of(task, IMAGES, seed)
        adapters.attach(model, AdapterConfig(**LORA | {"epochs": TENTH}), learning.num_classes, seed=seed)
        _fit(model, learning, validation, seed, autocast)
        model = adapters.merge(model)
    start = time.perf_counter()
    found = sensitivity_of(labelled, model, kind, seed)
    seconds = time.perf_counter() - start
    found.save(sensitivity_file(out, name, seed, kind))
    json_lines.append(out / MEASURED, {"task": name, "seed": seed, "measure": kind, "seconds": round(seconds, 2)})
    print(f"{name} seed {seed}: {kind} in {seconds:.0f} s", flush=True)


def train(datasets: Path, weights: Path, out: Path, autocast: torch.dtype | None, job: Job) -> None:
    """One training, appended when it is finished."""
    torch.set_num_threads(1)
    task = _task(datasets, job.task)
    learning, validation, test = batches_of(task, IMAGES, job.seed)
    model = load_vit(weights)
    budget = round(job.multiple * lora_parameters(model))
    row: dict[str, Any] = job._asdict() | {"group": task.group, "source": task.source, "budget": budget}
    start = time.perf_counter()
    if job.way == "adalora":
        tuned, parameters, curve = adalora(
            model, learning, validation, round(8 * job.multiple),
            learning_rate=LORA["learning_rate"], epochs=EPOCHS, batch_size=BATCH_SIZE, seed=job.seed, autocast=autocast,
        )  # fmt: skip
    else:
        config, scores = _chosen(model, learning, out, datasets, budget, job, autocast)
        tuned = adapters.attach(model, config, learning.num_classes, seed=job.seed, scores=scores)
        row |= {"settings": config.to_dict(), "choosing": round(time.perf_counter() - start, 2)}
        start = time.perf_counter()
        curve = [
            round(record["accuracy"], 4) for record in _fit(tuned, learning, validation, job.seed, autocast).history
        ]
        parameters = adapters.num_adapter_parameters(tuned)
    row |= {"precision": "float32" if autocast is None else str(autocast).removeprefix("torch.")}
    row |= {"parameters": parameters, "seconds": round(time.perf_counter() - start, 2), "curve": curve}
    row |= {"score": adapters.evaluate(tuned, test, autocast=autocast).accuracy, "test": len(test)}
    json_lines.append(out / TRAININGS, row)
    print(f"{job.task} seed {job.seed} x{job.multiple:g} {job.way}: {row['score']:.3f}", flush=True)


def lora_parameters(model: nn.Module) -> int:
    """Those of LoRA at rank 8 on this backbone."""
    like = copy.deepcopy(model).to("meta")
    return adapters.num_adapter_parameters(adapters.attach(like, AdapterConfig("lora", rank=8), 2))


def _chosen(
    model: nn.Module,
    learning: Batches,
    out: Path,
    datasets: Path,
    budget: int,
    job: Job,
    autocast: torch.dtype | None,
) -> tuple[AdapterConfig, dict[str, Tensor] | None]:
    """The configuration within the budget, and the scores of single weights where the way needs them."""
    if job.way in PLACEMENTS:
        placement = PLACEMENTS[job.way]
        config = AdapterConfig(**LORA)
        if placement.measure is None:
            return adapters.allocate(config, None, model, parameters=budget, rule=placement.rule, seed=job.seed), None

        def mass(name: str) -> dict[str, float]:
            assert placement.measure is not None
            return task2vec.Sensitivity.load(sensitivity_file(out, name, job.seed, placement.measure)).mass

        source = _task(datasets, job.task).source
        others = [name for name in TASKS if _task(datasets, name).source != source]
        reference = [mass(name) for name in others] if placement.rule in ("relative_mass", "usual_mass") else []
        placed = adapters.allocate(
            config, mass(job.task), model, parameters=budget, rule=placement.rule, reference=reference
        )
        return placed, None
    sparse = AdapterConfig(job.way, learning_rate=SPARSE_RATE, epochs=EPOCHS)
    if job.way == "gps":
        scores = adapters.gradient_scores(model, _shuffled(learning, job.seed))
        return adapters.allocate(sparse, None, model, parameters=budget, rule="uniform"), scores
    adapters.attach(
        model, AdapterConfig("linear", learning_rate=0.003, epochs=100), learning.num_classes, seed=job.seed
    )
    adapters.fit(model, learning, keep="last", autocast=autocast, seed=job.seed, progress=False)
    scores = adapters.fisher_scores(model, _shuffled(learning, job.seed))
    adapters.detach(model)
    return adapters.allocate(sparse, None, model, parameters=budget), scores


def _shuffled(learning: Batches, seed: int) -> Iterator[tuple[Tensor, Tensor]]:
    """All training images once, in batches of 64 in random order."""
    order = torch.randperm(len(learning), generator=torch.Generator().manual_seed(seed))
    for numbers in order.split(64):
        images, labels = learning.take(numbers)
        yield images, labels


def _fit(model: nn.Module, learning: Batches, validation: Batches, seed: int, autocast: torch.dtype | None) -> Any:
    return adapters.fit(
        model, learning, validation, batch_size=BATCH_SIZE, keep="last", autocast=autocast, seed=seed, progress=False
    )


def _task(datasets: Path, name: str) -> GroundTask:
    return next(task for task in ground(datasets) if task.name == name)


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    app()
