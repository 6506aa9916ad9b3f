"""Make the shipped library and its page from a store of trials.

task2vec trials run benchmarks/grid_1000.toml --store evidence.db  the trials; also with grid_100.toml
python benchmarks/library.py ship evidence.db             embeddings, trials and facts of a store, and nothing else
python benchmarks/library.py add TRIALS FACTS EMBEDDINGS PACES  the tasks of benchmarks/evidence.py beside what is there
python benchmarks/library.py learn                        settings of the learned recommender
python benchmarks/library.py embed benchmarks/grid_1000.toml    every shipped task again, where embedding changed
python benchmarks/library.py features benchmarks/grid_1000.toml  mean features of every shipped task
python benchmarks/library.py starts STARTS                starts from experts
python benchmarks/library.py docs                         docs/library.md from what is shipped
"""

from __future__ import annotations

import dataclasses
import json
from collections import Counter
from pathlib import Path
from typing import Annotated

import json_lines
import numpy as np
import torch
import typer
from ground.tasks import file_name
from ground.vit import NAME as PRETRAINED
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from safetensors.numpy import save_file

import selection
import task2vec
from adapters import DEFAULT_BACKBONE, AdapterConfig
from selection import BackboneFacts, Grid, TaskFilter, Trial
from selection.evaluation.protocol import ENOUGH
from selection.evidence.library import (
    EMBEDDINGS,
    FACTS,
    TASKS,
    TRIALS,
    WARM_STARTS,
    mean_features_file,
    read_trials,
    write_embeddings,
)
from selection.evidence.table import table_of
from selection.recommendation.recommenders import GaussianProcess
from selection.recommendation.recommenders.gaussian_process import SHIPPED, kind_of
from task2vec.distances.reference import write_reference
from task2vec.inputs import ProbeInputs
from task2vec.progress import silent

KINDS = ("natural", "specialised", "structured")
DOCS = Path(__file__).parents[1] / "docs"

app = typer.Typer(add_completion=False, help=__doc__)


def is_whole(name: str) -> bool:
    """Whether a task is one of the original ones, with all its images."""
    return "@" not in name and "." not in name


@app.command()
def ship(store: Annotated[str, typer.Argument(help="where `task2vec trials run` put the trials")]) -> None:
    """Replace what is shipped by a store's embeddings, trials and facts."""
    ship_from(selection.TaskStore(store))


def ship_from(opened: selection.TaskStore) -> None:
    """Write the library's files."""
    probe = task2vec.load_probe()
    tasks = {task.name: task for task in opened.tasks(TaskFilter(with_trials=True))}
    embeddings = [e for e in opened.embeddings(probe.fingerprint, "montecarlo") if e.task in tasks]
    write_embeddings(embeddings, EMBEDDINGS)
    TRIALS.write_text("".join(trial.to_line(name) for name, task in tasks.items() for trial in task.trials))
    facts = [{"task": name} | found.to_dict() for name, task in tasks.items() for found in task.facts]
    FACTS.write_text("".join(json.dumps(values) + "\n" for values in facts))
    known = {name: {"source": task.source, "tags": list(task.tags)} for name, task in tasks.items()}
    TASKS.write_text(json.dumps(known, indent=0) + "\n")


@app.command()
def add(
    trials: Annotated[Path, typer.Argument(help="what `evidence.py run` appended to")],
    facts: Annotated[Path, typer.Argument(help="what `evidence.py facts` appended to")],
    embeddings: Annotated[Path, typer.Argument(help="folder where `evidence.py facts` saved the embeddings")],
    paces: Annotated[Path, typer.Argument(help="what `evidence.py pace` measured")],
    images: Annotated[int, typer.Option(help="training images of the tasks to add")] = 500,
) -> None:
    """Add the ground's tasks that have trials to what is shipped, or replace them; trials on other backbones stay."""
    alone = {
        AdapterConfig.from_dict(pace["config"]): pace["seconds"]
        for pace in json_lines.read(paces)
        if pace["images"] == images
    }
    store, tried = selection.load_library(), read_trials(trials)
    for values in json_lines.read(facts):
        name, group, source = (values.pop(key) for key in ("task", "group", "source"))
        if len({trial.config for trial in tried.get(name, ())}) >= ENOUGH and name.endswith(f"@{images}"):
            kept: list[Trial] = []
            tags = {group, f"{images} images"}
            if name in store:
                own, former = {trial.backbone.architecture for trial in tried[name]}, store.task(name)
                kept = [trial for trial in former.trials if trial.backbone.architecture not in own]
                tags |= set(former.tags)
                store.remove(name)
            embedding = task2vec.TaskEmbedding.load(embeddings / f"{file_name(name)}.safetensors")
            found = BackboneFacts.from_dict(values)
            added = [as_if_alone(trial, alone[trial.config.replace(weight_decay=0)]) for trial in tried[name]]
            store.add(embedding, name=name, trials=[*kept, *added], source=source, tags=sorted(tags), facts=[found])
    ship_from(store)


def as_if_alone(trial: Trial, seconds: float) -> Trial:
    """A trial with the seconds that its configuration takes when nothing else runs, its epochs' in proportion."""
    share = seconds / trial.seconds
    return dataclasses.replace(trial, seconds=seconds, curve=tuple((score, own * share) for score, own in trial.curve))


@app.command()
def learn() -> None:
    """Write the settings of the learned recommender for each table of trials that the library has."""
    library = selection.load_library()
    found = {}
    for backbone in library.backbones():
        which = {task.name: task for task in library.tasks(TaskFilter(trials_on=backbone.architecture))}
        own = [(which[e.task], e) for e in library.embeddings(task2vec.load_probe().fingerprint) if e.task in which]
        table = table_of(own, lambda trial, backbone=backbone: trial.backbone.is_same(backbone))  # type: ignore[misc]
        for known in (table.looked_at(), table.looked_at().without_fisher(), table.without_facts()):
            if known.tasks:
                process = GaussianProcess.learn(known).calibrated(known)
                found[kind_of(known)] = {"settings": process.settings, "widening": process.widening}
    SHIPPED.write_text(json.dumps(found, indent=1) + "\n")


@app.command()
def embed(grid: Annotated[Path, typer.Argument(help="a grid file with the folder of the tasks")]) -> None:
    """Embed every shipped task again, as after a change of how embeddings are made."""
    library, probe, found = selection.load_library(), task2vec.load_probe(), Grid.from_file(grid)
    embeddings = [
        task2vec.embed(task.train, probe)
        for images in (100, None)
        for task in Grid(found.folder, found.configs, found.exclude, images, subtasks=True).tasks()
        if task.train.name in library
    ]
    write_embeddings(sorted(embeddings, key=lambda e: e.task), EMBEDDINGS)
    write_reference(probe.fingerprint, task2vec.mean_log_embedding([e for e in embeddings if is_whole(e.task)]))


@app.command()
def features(grid: Annotated[Path, typer.Argument(help="a grid file with the folder of the tasks")]) -> None:
    """The mean of the probe's features over the images of every shipped task with trials on the bundled backbone."""
    torch.set_num_threads(1)
    library, probe, found = selection.load_library(), task2vec.load_probe(), Grid.from_file(grid)
    means: dict[str, np.ndarray] = {}
    for images in (100, None):
        for task in Grid(found.folder, found.configs, found.exclude, images, subtasks=True).tasks():
            if task.train.name not in library:
                continue
            inputs = ProbeInputs(task.train, probe, from_layer=None, batch_size=64, report=silent)
            means[task.train.name] = inputs.features.mean(axis=0).astype(np.float32)
    save_file(means, mean_features_file(DEFAULT_BACKBONE))


@app.command()
def starts(found: Annotated[Path, typer.Argument(help="what `experts.py warm` appended to")]) -> None:
    """Replace the shipped starts from experts, by whose gains `recommend` knows when to start from an adapter."""
    WARM_STARTS.write_text("".join(json.dumps(row) + "\n" for row in json_lines.read(found)))


@app.command()
def docs() -> None:
    """Write docs/library.md and its pictures from what is shipped."""
    library = selection.load_library()
    probe = task2vec.load_probe()
    embeddings = [e for e in library.embeddings(probe.fingerprint) if is_whole(e.task)]
    task2vec.plot_map(embeddings).savefig(DOCS / "library-map.png", dpi=110)
    task2vec.plot_distances(embeddings, "log_cosine").savefig(DOCS / "library-distances.png", dpi=90)
    pretrained = _tried_on(library, PRETRAINED)
    plot_curves(pretrained).savefig(DOCS / "library-curves.png", dpi=100)
    bundled = _tried_on(library, DEFAULT_BACKBONE)
    small = [task for task in bundled if "@" in task.name]
    (DOCS / "library.md").write_text(
        PAGE.format(
            ground=_ground(pretrained),
            pretrained=PRETRAINED,
            pretrained_trials=sum(len(task.trials) for task in pretrained),
            pretrained_tasks=len(pretrained),
            pretrained_sources=len({task.source for task in pretrained}),
            pretrained_table="\n".join(map(_gain_row, sorted(pretrained, key=lambda t: (_kind(t), t.name)))),
            pretrained_scores=_scores(pretrained),
            tasks=len(bundled),
            whole=len(embeddings),
            small=len(small),
            parts=sum("." in task.name for task in small),
            twice=sum(len({t.seed for t in task.trials}) > 1 for task in bundled),
            trials=sum(len(task.trials) for task in bundled),
            configs=len({trial.config for task in bundled for trial in task.trials}),
            probe=probe.name,
            method=embeddings[0].method,
            backbone=DEFAULT_BACKBONE,
            table="\n".join(_task_row(library, embedding) for embedding in embeddings),
            large_scores=_scores([task for task in bundled if is_whole(task.name)]),
            small_scores=_scores(small),
        )
    )


PAGE = """# The shipped library

Made by `python benchmarks/library.py docs` from what is shipped in `selection/evidence/library/`: tasks embedded with
the bundled probe `{probe}` ({method}, one draw an image), and trials on them with two backbones.

## On a pretrained backbone

`{pretrained}` at 96 pixels: {pretrained_trials} trials on {pretrained_tasks} tasks of {pretrained_sources} sources,
{ground}.
Each has 500 or 100 training images, or what there is, and a quarter as many to watch over the training.
Weights are those of the last epoch of a cosine schedule ([pilot](pilot.md)). With 1,000 test images one accuracy has a
standard error of about 1.5 points.

| task | kind | images | classes | linear probe, % | best configuration | accuracy, % | gain, points |
| --- | --- | ---: | ---: | ---: | --- | ---: | ---: |
{pretrained_table}

The linear probe is the cross-validated one that is known before any training; gains are over it.

Mean test accuracies in percent, and mean gains:

{pretrained_scores}

![Learning curves](library-curves.png)

Validation accuracy by epoch, on two tasks of each kind.

## On the bundled backbone

{tasks} tasks, and {trials} trials of {configs} configurations on them with `{backbone}`. {whole} are whole tasks with
all their training images (at most about 1,000), {small} have 100 training images, of which {parts} are parts of tasks:
half of the classes, or the classes in groups. {twice} tasks were tuned with two seeds.

![Map of the whole tasks](library-map.png)

### Every whole task, its nearest tasks and its best trial

Distances are log_cosine. The accuracy is that of the trial that scored best on the test images.

| task | images | classes | nearest tasks | best trial | test accuracy |
| --- | ---: | ---: | --- | --- | ---: |
{table}

![Distances between the whole tasks](library-distances.png)

### What each configuration reached

Test accuracy in percent. A fifth of the training images chose the epoch, the other four fifths were learned from, and
the test images only gave the score.

All training images:

{large_scores}

100 training images:

{small_scores}

Each trial names the versions it ran with and its number format in `environment`, but for the first ones, of all
training images and seed 0.

What recommendations from these trials are worth is measured in [evaluation](evaluation.md).

## How each number was made

| what | how |
| --- | --- |
| trials on the pretrained backbone | `python benchmarks/evidence.py run DATASETS WEIGHTS -o TRIALS` |
| their embeddings and facts | `python benchmarks/evidence.py facts DATASETS WEIGHTS -o FACTS --embeddings FOLDER` |
| both in the library | `python benchmarks/library.py add TRIALS FACTS FOLDER PACES` |
| trials on the bundled backbone | `task2vec trials run` with `benchmarks/grid_1000.toml` and `grid_100.toml` |
| embeddings, sources | `python benchmarks/library.py ship STORE` |
| mean features under the backbone | `python benchmarks/evidence.py means DATASETS WEIGHTS --tried TRIALS` |
| mean features under the probe | `python benchmarks/library.py features GRID` |
| experts, starts from them | `python benchmarks/experts.py`, then `library.py starts` |
| published results for ViT-B/16 | `selection/evidence/library/published/`, with their sources |
| this page | `python benchmarks/library.py docs` |
"""


def _tried_on(library: selection.TaskStore, backbone: str) -> list[selection.StoredTask]:
    """The tasks with trials on a backbone, with these trials only."""
    architecture = backbone.split(".")[0]
    return [
        dataclasses.replace(task, trials=tuple(t for t in task.trials if t.backbone.architecture == architecture))
        for task in library.tasks(TaskFilter(trials_on=architecture))
    ]


def _kind(task: selection.StoredTask) -> str:
    return next(kind for kind in KINDS if kind in task.tags)


def _ground(tasks: list[selection.StoredTask]) -> str:
    """How many tasks there are of each kind."""
    kinds = Counter(map(_kind, tasks))
    return ", ".join(f"{count} {kind}" for kind, count in sorted(kinds.items()))


def _gain_row(task: selection.StoredTask) -> str:
    scored = [trial for trial in task.trials if trial.score is not None]
    (facts,) = task.facts
    linear = facts.linear_probe
    best = max(scored, key=lambda trial: trial.score)
    numbers = (
        f"{100 * linear:.1f}",
        best.config.label,
        f"{100 * best.score:.1f}",
        f"{100 * (best.score - linear):.1f}",
    )
    name, _, images = task.name.partition("@")
    return f"| {' | '.join((name, _kind(task), images, str(len(task.classes)), *numbers))} |"


def plot_curves(tasks: list[selection.StoredTask]) -> Figure:
    """Validation accuracy by epoch of every method on two tasks of each kind, those with the most trials."""
    tasks = sorted(tasks, key=lambda task: (-len(task.trials), task.name))
    shown = [task for kind in KINDS for task in [t for t in tasks if _kind(t) == kind][:2]]
    labels = sorted({t.config.label for task in shown for t in task.trials if len(t.curve) > 1})
    colours = {label: f"C{number}" for number, label in enumerate(labels)}
    figure = Figure(figsize=(10, 5.5), layout="constrained")
    for axes, task in zip(figure.subplots(2, 3).T.flat, shown, strict=False):
        for trial in task.trials:
            if len(trial.curve) > 1:
                share = np.arange(1, len(trial.curve) + 1) / len(trial.curve)
                values = [100 * accuracy for accuracy, _ in trial.curve]
                axes.plot(100 * share, values, color=colours[trial.config.label], linewidth=1.2)
        axes.set_title(task.name.split("@")[0], fontsize=9)
        axes.set_xlabel("epochs done, %", fontsize=8)
        axes.set_ylabel("validation accuracy, %", fontsize=8)
        axes.tick_params(labelsize=8)
    lines = [Line2D([], [], color=colour) for colour in colours.values()]
    figure.legend(lines, list(colours), loc="outside lower center", ncols=3, fontsize=8)
    return figure


def _task_row(library: selection.TaskStore, embedding: task2vec.TaskEmbedding) -> str:
    task, whole = library.task(embedding.task), [name for name in library.names() if is_whole(name)]
    near = library.nearest(embedding, 3, which=TaskFilter(names=whole, exclude=[embedding.task]))
    nearest = ", ".join(f"{n.name} ({n.distance:.2f})" for n in near)
    best = max(task.trials, key=lambda trial: trial.score)
    cells = [task.name, str(task.num_images), str(len(task.classes)), nearest, best.config.label, f"{best.score:.1%}"]
    return f"| {' | '.join(cells)} |"


def _scores(tasks: list[selection.StoredTask]) -> str:
    """A row for each configuration: on how many tasks it was tried, its mean gain over a linear probe, its wins."""
    probe = task2vec.load_probe().fingerprint
    embeddings = {e.task: e for e in selection.load_library().embeddings(probe)}
    table = table_of([(task, embeddings[task.name]) for task in tasks])
    gains = table.gains()
    rows = []
    for c, config in enumerate(table.configs):
        tried = np.isfinite(table.scores[:, c])
        wins = sum(int(np.nanargmax(row) == c) for row in table.scores)
        rows.append((np.nanmean(gains[:, c]), config.label, int(tried.sum()), np.nanmean(table.scores[:, c]), wins))
    lines = [
        "| configuration | tasks | mean | gain over a linear probe | best on |",
        "| --- | ---: | ---: | ---: | ---: |",
    ]
    for gain, label, count, mean, wins in sorted(rows, reverse=True):
        lines.append(f"| {label} | {count} | {100 * mean:.1f} | {100 * gain:+.1f} | {wins} |")
    return "\n".join(lines)


if __name__ == "__main__":
    app()
