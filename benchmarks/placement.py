"""Where to put parameters: rules of placement at equal numbers of parameters, on the pretrained backbone.

python benchmarks/placement.py adopt trials.jsonl datasets/ -o benchmarks/results/placement/
python benchmarks/placement.py run datasets/ weights.safetensors -o benchmarks/results/placement/    resumes
python benchmarks/placement.py contribute benchmarks/results/placement/ trials.jsonl paces.jsonl
python benchmarks/placement.py write benchmarks/results/placement/                                    docs/placement.md

`adopt` takes over the grid's trials of LoRA everywhere, early and late, which are the same trainings, and `contribute`
gives the grid those of LoRA placed by the Fisher's mass. `run` measures every task's sensitivity (a safetensors file
each), then trains what is missing, and appends one JSON line a training to `trainings.jsonl`. The jobs come in an order
in which every beginning is useful: one seed at the parameters of LoRA of rank 8, then the other numbers of parameters,
then the other seeds.
"""

from __future__ import annotations

import copy
import dataclasses
import math
import multiprocessing
import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from itertools import product
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import json_lines
import numpy as np
import numpy.typing as npt
import torch
import typer
from ground.tasks import GroundTask, ground
from ground.vit import batches_of, load_vit, transform
from page import DOCS, table
from sklearn.linear_model import RidgeCV
from timm.scheduler import CosineLRScheduler
from torch import Tensor, nn
from torch.nn import functional as F

import adapters
import task2vec
from adapters import AdapterConfig
from selection.evaluation.summary import mean_over_sources
from selection.store.trial import Trial
from task2vec import Compute

TASKS = (
    "cifar10", "tin_birds", "birds6", "caltech101", "tin_cats",
    "asl_mnst", "att_faces", "blood_cells", "brodatz32", "busi",
    "sprites: where", "sprites: angle", "sprites: size", "cifar10: rotation", "cifar10: blur",
)  # fmt: skip
"""Five of each group: natural, specialised, structured. The grid has LoRA everywhere, early and late on all of them."""

FACTS = Path(__file__).with_name("results") / "facts.jsonl"
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
    "few": {"max_samples": 200},
}
"""Settings of `task2vec.sensitivity`: as embeddings are made; at the dataset's labels; with a weak penalty on the
classifier; after a tenth of training LoRA everywhere, folded in; and on 200 images, which cost less."""


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
    "mass_few": Placement("mass", "few", "Fisher's mass on 200 of the images"),
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


@app.callback()
def main() -> None:
    """Two commands: `run` and, from what it found, `write`."""


def jobs(tasks: Sequence[str] = TASKS, seeds: Sequence[int] = SEEDS) -> list[Job]:
    """All trainings, in an order in which every beginning is useful."""
    return [Job(task, seed, way, multiple) for seed, multiple, way, task in product(seeds, MULTIPLES, WAYS, tasks)]


def missing(asked: Iterable[Job], out: Path) -> list[Job]:
    """Those that `out` has no line of."""
    done = {Job(row["task"], row["seed"], row["way"], row["multiple"]) for row in _rows(out)}
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
    done = {Job(row["task"], row["seed"], row["way"], row["multiple"]) for row in _rows(out)}
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
            json_lines.append(out / "trainings.jsonl", row | {"curve": curve, "score": trial.score})


@app.command()
def contribute(
    out: Annotated[Path, typer.Argument(help="the folder that `run` added to")],
    trials: Annotated[Path, typer.Argument(help="what `evidence.py run` wrote, appended to")],
    paces: Annotated[Path, typer.Argument(help="what `evidence.py pace` wrote, appended to")],
) -> None:
    """Give the grid the trainings of LoRA at rank 8, placed by the Fisher's mass, as trials of its own.

    What is known of a trial beside its outcome is that of LoRA everywhere, on the same images. Its seconds are those,
    and the sensitivity's, which were measured beside one another.
    """
    everywhere, rule = AdapterConfig(**LORA), PLACEMENTS["mass"].rule
    lines = [Trial.from_line(line) for line in trials.read_text().splitlines()]
    known = {(name, trial.seed, trial.config): trial for name, trial in lines}
    placed = everywhere.replace(placement=rule)
    taken = {(m["task"], m["seed"]): m["seconds"] for m in _rows(out, "measured.jsonl") if m["measure"] == "start"}
    for row in _rows(out):
        name, key = f"{row['task']}@{IMAGES}", (row["task"], row["seed"])
        like = known.get((name, row["seed"], everywhere))
        if (row["way"], row["multiple"]) != ("mass", 1.0) or like is None or (name, row["seed"], placed) in known:
            continue
        seconds = row["seconds"] + taken[key]
        trial = dataclasses.replace(
            like,
            config=placed,
            score=row["score"],
            validation=row["curve"][-1],
            parameters=row["parameters"],
            seconds=seconds,
            curve=tuple((accuracy, row["seconds"] / len(row["curve"])) for accuracy in row["curve"]),
        )
        with trials.open("a") as file:
            file.write(trial.to_line(name))
    measured = json_lines.read(paces)
    training = {
        (r["task"], r["seed"]): r["seconds"] for r in _rows(out) if (r["way"], r["multiple"]) == ("uniform", 1.0)
    }
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
    needed = {PLACEMENTS[job.way].measure for job in todo if job.way in PLACEMENTS} - {None}
    measured = [
        (name, seed, kind)
        for seed, kind, name in product(seeds, MEASURES, TASKS)  # all of them: some rules compare with the others
        if kind in needed and not _sensitivity_file(out, name, seed, kind).exists()
    ]
    print(f"{len(measured)} sensitivities to measure, {len(todo)} trainings to run", flush=True)
    with multiprocessing.get_context("spawn").Pool(processes, maxtasksperchild=8) as pool:
        for _ in pool.imap_unordered(partial(measure, datasets, weights, out, autocast), measured):
            pass
        for _ in pool.imap_unordered(partial(train, datasets, weights, out, autocast), todo):
            pass


def _sensitivity_file(out: Path, task: str, seed: int, kind: str) -> Path:
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
    found = task2vec.sensitivity(labelled, model, transform=transform(), seed=seed, **MEASURES[kind])
    seconds = time.perf_counter() - start
    found.save(_sensitivity_file(out, name, seed, kind))
    json_lines.append(
        out / "measured.jsonl", {"task": name, "seed": seed, "measure": kind, "seconds": round(seconds, 2)}
    )
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
        tuned, parameters, curve = adalora(model, learning, validation, round(8 * job.multiple), job.seed, autocast)
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
    json_lines.append(out / "trainings.jsonl", row)
    print(f"{job.task} seed {job.seed} x{job.multiple:g} {job.way}: {row['score']:.3f}", flush=True)


def lora_parameters(model: nn.Module) -> int:
    """Those of LoRA at rank 8 on this backbone."""
    like = copy.deepcopy(model).to("meta")
    return adapters.num_adapter_parameters(adapters.attach(like, AdapterConfig("lora", rank=8), 2))


def _chosen(
    model: nn.Module,
    learning: Any,
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
            return task2vec.Sensitivity.load(_sensitivity_file(out, name, job.seed, placement.measure)).mass

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


def _shuffled(learning: Any, seed: int) -> Iterator[tuple[Tensor, Tensor]]:
    """All training images once, in batches of 64 in random order."""
    order = torch.randperm(len(learning), generator=torch.Generator().manual_seed(seed))
    for numbers in order.split(64):
        images, labels = learning.take(numbers)
        yield images, labels


def _fit(model: nn.Module, learning: Any, validation: Any, seed: int, autocast: torch.dtype | None) -> Any:
    return adapters.fit(
        model, learning, validation, batch_size=BATCH_SIZE, keep="last", autocast=autocast, seed=seed, progress=False
    )


def adalora(
    model: nn.Module, learning: Any, validation: Any, rank: int, seed: int, autocast: torch.dtype | None
) -> tuple[nn.Module, int, list[float]]:
    """PEFT's AdaLoRA: singular values are pruned while it trains, from half as many more down to the budget.

    Zhang et al. 2023, https://arxiv.org/abs/2303.10512. Schedule, batches and clipping are those of `adapters.fit`.

    Args:
        model: The backbone.
        learning: Training images.
        validation: Validation images, to watch.
        rank: The mean rank of the packed query-key-value layers at the end.
        seed: Fixes the initial weights and the order of the images.
        autocast: What it computes in, if not float32.

    Returns:
        The model, the parameters of the singular values that are left, and the validation accuracy of each epoch.
    """
    import peft

    torch.manual_seed(seed)
    model.reset_classifier(learning.num_classes)  # type: ignore[operator]
    steps = math.ceil(len(learning) / BATCH_SIZE)
    settings = peft.AdaLoraConfig(
        init_r=math.ceil(1.5 * rank), target_r=rank, tinit=2 * steps, tfinal=5 * steps, deltaT=5,
        total_step=EPOCHS * steps, lora_alpha=math.ceil(1.5 * rank), target_modules=["qkv"], modules_to_save=["head"],
    )  # fmt: skip
    tuned: Any = peft.get_peft_model(model, settings)
    trained = [p for p in tuned.parameters() if p.requires_grad]
    optimiser = torch.optim.AdamW(trained, lr=LORA["learning_rate"], weight_decay=1e-4)
    total = EPOCHS * steps
    schedule = CosineLRScheduler(
        optimiser, t_initial=total, warmup_t=round(0.1 * total), warmup_prefix=True, t_in_epochs=False
    )
    step, curve = 0, []
    for epoch in range(EPOCHS):
        tuned.train()
        order = torch.randperm(len(learning), generator=torch.Generator().manual_seed(seed * 100_003 + epoch))
        for numbers in order.split(BATCH_SIZE):
            step += 1
            schedule.step_update(step)
            images, labels = learning.take(numbers)
            with torch.autocast("cpu", autocast, enabled=autocast is not None):
                logits = tuned.base_model.model(images)
            optimiser.zero_grad()
            penalty = tuned.peft_config["default"].orth_reg_weight * _orthogonality(tuned)
            (F.cross_entropy(logits.float(), labels) + penalty).backward()
            nn.utils.clip_grad_norm_(trained, 1.0)
            optimiser.step()
            tuned.base_model.update_and_allocate(step)
        curve.append(round(adapters.evaluate(tuned.base_model.model, validation, autocast=autocast).accuracy, 4))
    left = 0
    for name, values in tuned.named_parameters():
        if "lora_E" in name:
            layer = tuned.get_submodule(name.split(".lora_E")[0]).base_layer
            left += int((values != 0).sum()) * (layer.in_features + layer.out_features + 1)
    return tuned.base_model.model, left, curve


def _orthogonality(model: nn.Module) -> Tensor:
    """Mean of |P'P - I| and |QQ' - I|, Frobenius norms, over the layers: AdaLoRA's penalty (its equation 4)."""
    norms = []
    for name, factor in model.named_parameters():
        if "lora_A" in name or "lora_B" in name:
            gram = factor @ factor.T if "lora_A" in name else factor.T @ factor
            norms.append((gram - torch.eye(len(gram))).norm())
    return torch.stack(norms).mean()


def _task(datasets: Path, name: str) -> GroundTask:
    return next(task for task in ground(datasets) if task.name == name)


def _rows(out: Path, name: str = "trainings.jsonl") -> list[dict[str, Any]]:
    return json_lines.so_far(out / name)


@dataclasses.dataclass(frozen=True)
class Difference:
    """How far a way is above another on the same tasks and seeds, in points.

    Attributes:
        mean: Over the tasks; a task counts once, with the mean over its seeds.
        low: Lower end of the 95% bootstrap interval over the tasks' sources.
        high: Upper end.
        worst: The smallest difference of a task.
        tasks: How many there are.
    """

    mean: float
    low: float
    high: float
    worst: float
    tasks: int


def difference(
    rows: Sequence[dict[str, Any]], of: Callable[[dict[str, Any]], bool], base: Callable[[dict[str, Any]], bool]
) -> Difference | None:
    """Between the rows `of` one kind and those of the `base`, where a task and seed has both.

    None where fewer than two tasks have both.
    """
    scores = [{(r["task"], r["seed"]): r["score"] for r in rows if kind(r)} for kind in (of, base)]
    by_task: dict[str, list[float]] = {}
    for task, seed in sorted(set(scores[0]) & set(scores[1])):
        by_task.setdefault(task, []).append(100 * (scores[0][task, seed] - scores[1][task, seed]))
    if len(by_task) < 2:
        return None
    sources = {row["task"]: row["source"] for row in rows}
    means = np.array([np.mean(found) for found in by_task.values()])
    found = mean_over_sources(means, [sources[task] for task in by_task])
    return Difference(found.value, found.low, found.high, float(means.min()), len(means))


@app.command()
def write(
    out: Annotated[Path, typer.Argument(help="the folder that `run` added to")],
    facts: Annotated[Path, typer.Option(help="what `evidence.py facts` wrote")] = FACTS,
) -> None:
    """Write docs/placement.md."""
    rows = _rows(out)
    (DOCS / "placement.md").write_text(
        PAGE.format(
            tasks=len({row["task"] for row in rows}),
            seeds=len({row["seed"] for row in rows}),
            trainings=len(rows),
            images=IMAGES,
            epochs=EPOCHS,
            differences=_differences_table(rows),
            accuracies=_accuracies_table(rows),
            halves=_halves(rows),
            own=_own_table(rows),
            learned=_learned_table(rows, facts, out),
            cost=_cost(rows, out),
            fisher=_fisher_table(rows, out),
            formulas=_formulas(),
        )
    )


def _differences_table(rows: list[dict[str, Any]]) -> str:
    multiples = sorted({row["multiple"] for row in rows})
    lines = []
    for way, shown in WAYS.items():
        if way == "uniform" or not any(row["way"] == way for row in rows):
            continue
        cells = [shown]
        for multiple in multiples:
            at = [row for row in rows if row["multiple"] == multiple]
            found = difference(at, lambda r, way=way: r["way"] == way, lambda r: r["way"] == "uniform")  # type: ignore[misc]
            cells.append(
                "-"
                if found is None
                else f"{found.mean:+.1f} ({found.low:+.1f} to {found.high:+.1f}), {found.worst:+.1f}"
            )
        lines.append(cells)
    return table(["way", *(f"x {multiple:g}" for multiple in multiples)], lines)


def _own_table(rows: list[dict[str, Any]]) -> str:
    """What the target's own Fisher adds to what is the same for all tasks."""
    lines = []
    for against in ("uniform", "usual", "early"):
        found = difference(
            [row for row in rows if row["multiple"] == 1.0],
            lambda r: r["way"] == "mass",
            lambda r, against=against: r["way"] == against,  # type: ignore[misc]
        )
        if found is not None:
            interval = f"{found.low:+.1f} to {found.high:+.1f}"
            lines.append([WAYS[against], f"{found.mean:+.1f}", interval, f"{found.worst:+.1f}", str(found.tasks)])
    return table(["Fisher's mass against", "points", "95% interval", "worst task", "tasks"], lines)


def _accuracies_table(rows: list[dict[str, Any]]) -> str:
    at = [row for row in rows if row["multiple"] == 1.0]
    found: dict[tuple[str, str], list[float]] = {}
    for row in at:
        found.setdefault((row["task"], row["way"]), []).append(row["score"])
    ways = [way for way in WAYS if any(way == key[1] for key in found)]
    groups = {row["task"]: row["group"] for row in at}
    lines = [
        [
            task,
            groups[task],
            *(f"{100 * np.mean(found[task, way]):.1f}" if (task, way) in found else "-" for way in ways),
        ]
        for task in sorted(groups, key=lambda task: (groups[task], task))
    ]
    return table(["task", "group", *(f"`{way}`" for way in ways)], lines)


def _halves(rows: list[dict[str, Any]]) -> str:
    """Each way at half the parameters beside uniform at all of them."""
    if not any(row["multiple"] == 0.5 for row in rows):
        return "Not trained yet."
    lines = []
    for way, shown in WAYS.items():
        found = difference(
            rows,
            lambda r, way=way: r["way"] == way and r["multiple"] == 0.5,  # type: ignore[misc]
            lambda r: r["way"] == "uniform" and r["multiple"] == 1.0,
        )
        if found is not None:
            lines.append([shown, f"{found.mean:+.1f}", f"{found.low:+.1f} to {found.high:+.1f}", str(found.tasks)])
    shown = table(
        ["way, at half the parameters", "points above uniform at all of them", "95% interval", "tasks"], lines
    )
    half, whole = (
        " and ".join(sorted({row.get("precision", "bfloat16") for row in rows if row["multiple"] == multiple}))
        for multiple in (0.5, 1.0)
    )
    return f"{shown}\n\nThose at half the parameters were trained in {half}, those at all of them in {whole}."


def _cost(rows: list[dict[str, Any]], out: Path) -> str:
    training = {(r["task"], r["seed"]): r["seconds"] for r in rows if r["way"] == "uniform" and r["multiple"] == 1.0}
    lines = []
    for kind in MEASURES:
        shares = [
            m["seconds"] / training[m["task"], m["seed"]]
            for m in _rows(out, "measured.jsonl")
            if m["measure"] == kind and (m["task"], m["seed"]) in training
        ]
        if shares:
            lines.append([f"`{kind}`", f"{100 * float(np.median(shares)):.1f}%", str(len(shares))])
    return table(["sensitivity", "seconds, as a share of the training's (median)", "measured"], lines)


HALVES = ("early", "late")


@dataclasses.dataclass(frozen=True)
class Tried:
    """A task on which LoRA was placed everywhere, early and late, at the same parameters.

    Attributes:
        name: Its name.
        source: Where its images come from.
        gains: `(2,)`, points of early and of late above everywhere.
        known: What is known of it before, by name: numbers `(F,)`.
    """

    name: str
    source: str
    gains: npt.NDArray[np.float64]
    known: dict[str, npt.NDArray[np.float64]]


def tried_tasks(rows: Sequence[dict[str, Any]], facts: Path, out: Path) -> list[Tried]:
    """Those of which everything is known."""
    looked = {row["task"]: row for row in json_lines.read(facts)}
    scores: dict[str, dict[str, float]] = {}
    for row in rows:
        if row["multiple"] == 1.0 and row["seed"] == SEEDS[0]:
            scores.setdefault(row["task"], {})[row["way"]] = 100 * row["score"]
    sources = {row["task"]: row["source"] for row in rows}
    found = []
    for task, own in sorted(scores.items()):
        path, key = _sensitivity_file(out, task, SEEDS[0], "start"), f"{task}@{IMAGES}"
        if {"uniform", *HALVES} <= set(own) and path.exists() and key in looked:
            thirds = np.log(np.array(_shares_of_blocks(path)).reshape(3, 4).sum(axis=1))
            own_facts = looked[key]
            hidden = np.subtract(own_facts["in_place"], own_facts["linear_probe"])
            known = {
                "fisher": thirds,
                "facts": np.array([hidden[-1], hidden[0] - hidden[2], own_facts["linear_probe"]]),
            }
            known["both"] = np.concatenate([known["fisher"], known["facts"]])
            gains = np.array([own[way] - own["uniform"] for way in HALVES])
            found.append(Tried(task, sources[task], gains, known))
    return found


def learned_gains(tasks: Sequence[Tried], known: str | None) -> npt.NDArray[np.float64]:
    """Points above everywhere, of the place that tasks of other sources speak for: ridge regressions from what is known
    to what early and late gain, or their means where nothing is known. Everywhere is taken where neither promises.
    """
    found = []
    for task in tasks:
        others = [other for other in tasks if other.source != task.source]
        gains = np.stack([other.gains for other in others])
        expected = gains.mean(axis=0)
        if known is not None:
            numbers = np.stack([other.known[known] for other in others])
            mean, spread = numbers.mean(axis=0), numbers.std(axis=0) + 1e-9
            ridge = RidgeCV(np.logspace(-1, 3, 13)).fit((numbers - mean) / spread, gains)
            expected = ridge.predict([(task.known[known] - mean) / spread])[0]
        best = int(np.argmax(expected))
        found.append(task.gains[best] if expected[best] > 0 else 0.0)
    return np.array(found)


def _learned_table(rows: list[dict[str, Any]], facts: Path, out: Path) -> str:
    tasks = tried_tasks(rows, facts, out)
    if len({task.source for task in tasks}) < 3:
        return "Not enough tasks have been tried yet."
    ways = {
        "what gained most on average elsewhere": learned_gains(tasks, None),
        "learned from the Fisher's shares by thirds of the depth": learned_gains(tasks, "fisher"),
        "learned from the facts in place": learned_gains(tasks, "facts"),
        "learned from both": learned_gains(tasks, "both"),
        "whoever knew": np.array([max(0.0, *task.gains) for task in tasks]),
    }
    lines = []
    for name, gains in ways.items():
        found = mean_over_sources(gains, [task.source for task in tasks])
        lines.append([name, f"{found.value:+.1f}", f"{found.low:+.1f} to {found.high:+.1f}", f"{gains.min():+.1f}"])
    return table([f"place, on {len(tasks)} tasks", "points above everywhere", "95% interval", "worst task"], lines)


def _shares_of_blocks(sensitivity: Path) -> list[float]:
    """Each block's share of the Fisher that is saved in a file."""
    shares = task2vec.Sensitivity.load(sensitivity).shares
    return [sum(v for n, v in shares.items() if n.startswith(f"blocks.{b}.")) for b in range(12)]


def _fisher_table(rows: list[dict[str, Any]], out: Path) -> str:
    """The share of each block, in percent, of the first seed's draw."""
    groups = {row["task"]: row["group"] for row in rows}
    lines = []
    for task in sorted(groups, key=lambda task: (groups[task], task)):
        path = _sensitivity_file(out, task, SEEDS[0], "start")
        if path.exists():
            lines.append([task, groups[task], *(f"{100 * share:.1f}" for share in _shares_of_blocks(path))])
    return table(["task", "group", *(f"block {b}" for b in range(12))], lines)


def _formulas() -> str:
    lines = [
        [f"`{name}`", " ".join((rule.__doc__ or "").split("\n\n")[0].split())] for name, rule in adapters.RULES.items()
    ]
    return table(["rule", "weight w of a place, in proportion to which parameters are shared"], lines)


PAGE = """# Where to put the parameters

This page is written by `python benchmarks/placement.py write`.

The Fisher of the backbone that will be tuned says, on the target's own images and labels and before anything is tuned,
how much each layer's weights matter. Does LoRA do better where it is large? Rules of placement are compared at equal
numbers of trainable parameters on ViT-tiny (ImageNet-21k, 96 pixels): {tasks} tasks, {images} training images, {seeds}
seeds, {epochs} epochs, {trainings} trainings so far. A seed draws the images, the order and the initial weights.

## The rules

{formulas}

m: the Fisher's mass in a place, summed over all weights of its layers; n: these weights; c: trainable parameters of an
adapter of size 1 there. Sizes are whole: the budget goes step by step to the place that is furthest behind its share
(`adapters/placement/budget.py`), and is never exceeded.

SPT: [He et al. 2023](https://arxiv.org/abs/2303.08566); GPS: [Zhang et al. 2023](https://arxiv.org/abs/2312.10136);
FISH mask: [Sung et al. 2021](https://arxiv.org/abs/2111.09839); AdaLoRA:
[Zhang et al. 2023](https://arxiv.org/abs/2303.10512), through PEFT.

## Against the same rank everywhere

Points of test accuracy above LoRA of one rank at the same parameters (the multiple of those of rank 8), the mean over
tasks with its 95% interval (bootstrap over their sources), and the worst task.

{differences}

## What the task's own Fisher adds

{own}

The Fisher's shares hardly differ between tasks (the last table): most lies in the first five blocks, whatever the task.
So a part of what is gained is this network's, whose early blocks want more ranks than its late ones, and comes without
any measurement (`early`, or other tasks' Fisher); the rest is the task's own.

## Half the parameters

{halves}

## Every task, at the parameters of rank 8

Mean test accuracy in percent.

{accuracies}

## Learned from other tasks

LoRA early, late or everywhere, as tasks of other sources speak for it: is what the Fisher says of a task worth knowing,
and are the facts in place (`selection.facts_of`)? Whoever knew all scores would pick the best of three of one seed,
noise included, so that nobody can reach the last row.

{learned}

## What the measurement costs

{cost}

## The Fisher by block

Shares of the whole in percent, on the images of the first seed.

{fisher}
"""


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    app()
