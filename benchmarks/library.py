"""Make the shipped library and its page from a folder of task zips.

python benchmarks/library.py embed datasets/     embeddings of every task under the bundled probe
python benchmarks/library.py trials datasets/    trials of every method on the bundled backbone; resumes
python benchmarks/library.py docs                docs/library.md from both
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

import selection
import task2vec
from adapters import DEFAULT_BACKBONE, AdapterConfig
from selection.library import EMBEDDINGS, TRIALS, write_embeddings
from task2vec.distances.reference import write_reference

DOCS = Path(__file__).parents[1] / "docs"

PRETRAINING = "tin_base"  # what the bundled networks were trained on is never a target

CONFIGS = [
    AdapterConfig("linear"),
    AdapterConfig("linear", learning_rate=1e-1),
    AdapterConfig("ssf"),
    AdapterConfig("ssf", blocks=(3, 4, 5)),
    AdapterConfig("lora", rank=4),
    AdapterConfig("lora", rank=16),
    AdapterConfig("adaptformer", bottleneck=8),
    AdapterConfig("adaptformer", bottleneck=64),
]

app = typer.Typer(add_completion=False, help=__doc__)
Datasets = Annotated[Path, typer.Argument(help="folder of ImageFolder zips with train and test splits")]


def archives(datasets: Path) -> list[Path]:
    """The zips of the tasks, in alphabetical order."""
    return sorted(p for p in datasets.glob("*.zip") if p.stem != PRETRAINING)


@app.command()
def embed(datasets: Datasets, seed: int = 0) -> None:
    """Embed every task's training images, and take the mean log embedding as the reference of log_cosine."""
    probe = task2vec.load_probe()
    tasks = [task2vec.Task.from_folder(path) for path in archives(datasets)]
    embeddings = [task2vec.embed(task, probe, seed=seed, progress=True) for task in tasks]
    write_embeddings(embeddings, EMBEDDINGS)
    write_reference(probe.fingerprint, task2vec.mean_log_embedding(embeddings))


@app.command()
def trials(datasets: Datasets, only: str = "") -> None:
    """Tune every configuration on every task (or those named, with commas), one seed each."""
    wanted = only.split(",") if only else [path.stem for path in archives(datasets)]
    pairs = [
        (task2vec.Task.from_folder(path), task2vec.Task.from_folder(path, split="test"))
        for name in wanted
        for path in archives(datasets)
        if path.stem == name
    ]
    selection.run_grid(pairs, CONFIGS, TRIALS, backbone=DEFAULT_BACKBONE)


@app.command()
def docs() -> None:
    """Write docs/library.md and its map from what is shipped."""
    library = selection.load_library()
    probe = task2vec.load_probe()
    embeddings = library.embeddings(probe.fingerprint)
    task2vec.plot_map(embeddings).savefig(DOCS / "library-map.png", dpi=110)
    task2vec.plot_distances(embeddings, "log_cosine").savefig(DOCS / "library-distances.png", dpi=90)
    tasks = {embedding.task: library.task(embedding.task) for embedding in embeddings}
    (DOCS / "library.md").write_text(
        PAGE.format(
            tasks=len(tasks),
            tried=sum(bool(task.trials) for task in tasks.values()),
            trials=sum(len(task.trials) for task in tasks.values()),
            probe=probe.name,
            method=embeddings[0].method,
            backbone=DEFAULT_BACKBONE,
            table="\n".join(_task_row(library, embedding) for embedding in embeddings),
            scores=_scores([task for task in tasks.values() if task.trials]),
            left_out=_leave_one_source_out(library, [e for e in embeddings if tasks[e.task].trials]),
        )
    )


PAGE = """# The shipped library

Made by `python benchmarks/library.py docs` from what is shipped in `selection/library/`: {tasks} tasks embedded with
the bundled probe `{probe}` ({method}, one draw an image), {trials} trials on {tried} of them with the bundled
backbone `{backbone}`.

![Map of the shipped tasks](library-map.png)

## Every task, its nearest tasks and its best trial

Distances are log_cosine. The accuracy is that of the trial that scored best on the test images.

| task | images | classes | nearest tasks | best trial | test accuracy |
| --- | ---: | ---: | --- | --- | ---: |
{table}

![Distances between the shipped tasks](library-distances.png)

## Every trial

Test accuracy in percent, one seed. A fifth of the training images chose the epoch, the other four fifths were learned
from, and the test images only gave the score. With 1,000 test images one accuracy has a standard error of about 1.5
points.

{scores}

## What the recommendation is worth here

Each task with trials in turn is the target; neither it nor another task cut from the same source (all `tin_` tasks are
one source) may be asked. Mean test accuracy in percent of what each rule would have tuned:

{left_out}

How each number was made:

| what | how |
| --- | --- |
| embeddings | `python benchmarks/library.py embed FOLDER` |
| trials | `python benchmarks/library.py trials FOLDER`: AdamW, batches of 64, 10% warm-up, cosine decay |
| this page | `python benchmarks/library.py docs` |
"""


def _leave_one_source_out(library: selection.TaskStore, embeddings: list[task2vec.TaskEmbedding]) -> str:
    """Mean accuracy, over the tasks as targets, of the recommended and of fixed choices."""
    scores = {e.task: {t.config: t.score for t in library.task(e.task).trials} for e in embeddings}
    rows: dict[str, list[float]] = {
        rule: [] for rule in ("linear probe", "mean of all", "best on average", "recommended", "best")
    }
    for embedding in embeddings:
        own = scores[embedding.task]
        source = [name for name in library.names() if _source(name) == _source(embedding.task)]
        others = [by_config for name, by_config in scores.items() if name not in source]
        fixed = max(own, key=lambda config: sum(by_config[config] for by_config in others))
        recommended = selection.recommend(embedding, library, exclude=source).config
        rows["linear probe"].append(own[AdapterConfig("linear")])
        rows["mean of all"].append(sum(own.values()) / len(own))
        rows["best on average"].append(own[fixed])
        rows["recommended"].append(own[recommended])
        rows["best"].append(max(own.values()))
    explained = {
        "linear probe": "always `linear`",
        "mean of all": "a configuration at random",
        "best on average": "the configuration with the best mean on the other sources",
        "recommended": "what `selection.recommend` ranks first",
        "best": "the best configuration of the target itself, which nobody knows beforehand",
    }
    lines = ["| rule | | accuracy |", "| --- | --- | ---: |"]
    lines += [f"| {rule} | {explained[rule]} | {100 * sum(v) / len(v):.1f} |" for rule, v in rows.items()]
    return "\n".join(lines)


def _source(name: str) -> str:
    return "tin" if name.startswith("tin_") else name


def _task_row(library: selection.TaskStore, embedding: task2vec.TaskEmbedding) -> str:
    task = library.task(embedding.task)
    near = library.nearest(embedding, 3, exclude=[embedding.task])
    nearest = ", ".join(f"{n.name} ({n.distance:.2f})" for n in near)
    best = max(task.trials, key=lambda trial: trial.score, default=None)
    found = "- | -" if best is None else f"{best.config.label} | {best.score:.1%}"
    return f"| {task.name} | {task.num_images} | {len(task.classes)} | {nearest} | {found} |"


def _scores(tasks: list[selection.StoredTask]) -> str:
    """A row for each task and a column for each configuration, the best of a row in bold."""
    labels = list(dict.fromkeys(config.label for config in CONFIGS))
    lines = ["| task | " + " | ".join(labels) + " |", "| --- |" + " ---: |" * len(labels)]
    columns: dict[str, list[float]] = {label: [] for label in labels}
    for task in tasks:
        chosen = {trial.config.label: trial.score for trial in task.trials}
        cells = []
        for label in labels:
            score = chosen.get(label)
            if score is None:
                cells.append("-")
                continue
            columns[label].append(score)
            text = f"{100 * score:.1f}"
            cells.append(f"**{text}**" if score == max(chosen.values()) else text)
        lines.append(f"| {task.name} | " + " | ".join(cells) + " |")
    means = (f"{100 * sum(scores) / len(scores):.1f}" if scores else "-" for scores in columns.values())
    lines.append("| mean | " + " | ".join(means) + " |")
    return "\n".join(lines)


if __name__ == "__main__":
    app()
