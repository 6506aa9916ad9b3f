"""`task2vec store`: keep your own tasks and trials."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated

import typer

from selection.cli import options as o
from selection.cli.output import brief, describe_embedding, print_facts, print_json, print_table, share
from selection.errors import StoreError
from selection.evidence.library import load_library
from selection.store import ImportReport, TaskStore, export_store, import_archive, merge_stores
from selection.store.engine import sqlite_file
from selection.store.store import BESIDE
from selection.store.trial import Trial
from task2vec.tasks.splits import read_task

app = typer.Typer(help="Make, fill and look into task stores.", no_args_is_help=True, add_completion=False)
Location = Annotated[str, typer.Argument(help="The store's file, or the URL of a database.")]
Archive = Annotated[Path, typer.Argument(help="The exported file.")]


@app.command()
def create(
    location: Location,
    empty: Annotated[bool, typer.Option("--empty", help="Without the shipped library's tasks and trials.")] = False,
    as_json: o.Json = False,
) -> None:
    """Make a new store that starts with the shipped library."""
    file = sqlite_file(location)
    if file is not None and file.exists():
        raise StoreError(f"{location} is there already; give a new name")
    store = TaskStore(location) if empty else load_library(location)
    _say({"store": location, "tasks": len(store)}, as_json)


@app.command(name="list")
def list_tasks(
    location: Annotated[
        str | None, typer.Argument(help="The store's file, or the URL of a database; as --store if not given.")
    ] = None,
    store: o.Store = None,
    as_json: o.Json = False,
) -> None:
    """List the tasks of a store with their best trials."""
    opened = o.open_store(_one_of(location, store))
    tasks = [opened.task(name) for name in opened.names()]
    if as_json:
        print_json(
            [
                {"task": t.name, "images": t.num_images, "classes": len(t.classes), "trials": len(t.trials)}
                for t in tasks
            ]
        )
        return
    rows = []
    for task in tasks:
        best = max((t for t in task.trials if t.score is not None), key=lambda t: t.score or 0.0, default=None)
        found = ("-", "-") if best is None else (best.config.method, share(best.score))
        rows.append((task.name, str(task.num_images), str(len(task.classes)), str(len(task.trials)), *found))
    print_table(f"Tasks in {opened.location}", ("task", "images", "classes", "trials", "best trial", "scored"), rows)


@app.command()
def show(
    place: Annotated[list[str], typer.Argument(metavar="[LOCATION] NAME", help="The task, after its store if given.")],
    store: o.Store = None,
    as_json: o.Json = False,
) -> None:
    """Show one task with all its trials."""
    *location, name = place
    if len(location) > 1:
        raise StoreError(f"{' '.join(place)} names more than a store and a task; quote names with spaces")
    task = o.open_store(_one_of(location[0] if location else None, store)).task(name)
    if as_json:
        print_json(
            {
                "task": task.name,
                "images": task.num_images,
                "classes": list(task.classes),
                "adapter": None if task.adapter is None else str(task.adapter),
                "tags": list(task.tags),
                "source": task.source,
                "trials": [t.to_dict() for t in task.trials],
            }
        )
        return
    typer.echo(f"{task.name}: {task.num_images} images, {len(task.classes)} classes, {len(task.trials)} trials")
    for backbone in sorted({str(trial.backbone) for trial in task.trials}):
        own = [trial for trial in task.trials if str(trial.backbone) == backbone]
        print_table(
            f"Trials on {backbone}",
            ("trial", "scored", "validation", "parameters", "seconds"),
            (
                (brief(t.config), share(t.score), f"{t.validation:.1%}", f"{t.parameters:,}", f"{t.seconds:.0f}")
                for t in sorted(own, key=lambda t: -1.0 if t.score is None else t.score, reverse=True)
            ),
        )


@app.command()
def add(
    location: Location,
    source: o.Source,
    name: Annotated[str | None, typer.Option(help="What to call the task.")] = None,
    trials: Annotated[Path | None, typer.Option(help="JSON lines of its trials, one object a line.")] = None,
    adapter: Annotated[Path | None, typer.Option(help="Directory of its tuned adapter.")] = None,
    tag: Annotated[list[str] | None, typer.Option(help="A word to find it by; may be given several times.")] = None,
    origin: Annotated[str, typer.Option(help="Where its images come from.")] = "",
    split: o.Split = None,
    separator: o.Separator = None,
    probe: o.ProbeName = o.PROBE,
    probe_weights: o.ProbeWeights = None,
    device: o.Device = "auto",
    precision: o.Precision = "auto",
    workers: o.Workers = "auto",
    seed: o.Seed = 0,
    thumbnails: o.Thumbnails = False,
    as_json: o.Json = False,
) -> None:
    """Add a task to a store: its embedding, and what was tuned on it."""
    opened = o.open_store(location)
    read = [] if trials is None else _read_trials(trials)
    compute = o.compute_of(device, precision, workers)
    if not o.is_embedding(source):
        task = read_task(source, split=split, separator=separator)
        opened.check_classes(name or task.name, task.class_names)
    embedding = o.embedding_of(
        source, probe, probe_weights, split, seed, compute, separator=separator, thumbnails=thumbnails
    )
    called = name or embedding.task
    other = next((own for own, _ in read if own not in ("", called, embedding.task)), None)
    if other is not None:
        raise StoreError(f"{trials} holds trials of {other!r}, and the task is called {called!r}; give its own trials")
    opened.add(
        embedding, name=name, trials=[trial for _, trial in read], adapter=adapter, tags=tag or (), source=origin
    )
    _say(describe_embedding(embedding) | {"task": called, "trials": len(opened.task(called).trials)}, as_json)


@app.command()
def remove(location: Location, name: str, as_json: o.Json = False) -> None:
    """Remove a task from a store, with its embeddings and trials."""
    opened = o.open_store(location)
    opened.remove(name)
    _say({"removed": name, "tasks": len(opened)}, as_json)


@app.command()
def forget_thumbnails(
    location: Location,
    name: Annotated[str | None, typer.Argument(help="The task; all tasks if not given.")] = None,
    as_json: o.Json = False,
) -> None:
    """Remove the small pictures of a task's images, or of all tasks', and give their space back."""
    opened = o.open_store(location)
    removed = opened.forget_thumbnails(name)
    opened.vacuum()
    _say({"thumbnails removed": removed, "tasks": len(opened)}, as_json)


@app.command()
def export(location: Location, archive: Archive, as_json: o.Json = False) -> None:
    """Write everything in a store to one portable file."""
    opened = o.open_store(location)
    export_store(opened, archive)
    _say({"exported": str(archive), "tasks": len(opened), "bytes": archive.stat().st_size}, as_json)


@app.command(name="import")
def import_(location: Location, archive: Archive, as_json: o.Json = False) -> None:
    """Add everything in an exported file to a store, which is made if it is not there."""
    file = sqlite_file(location)
    if file is not None and archive.resolve() in {Path(f"{file}{ending}").resolve() for ending in BESIDE}:
        raise StoreError(f"{archive} is called as a file of the store itself, which SQLite would remove; rename it")
    with o.store_to_fill(location) as store:
        report = import_archive(store, archive)
    _report(report, as_json)


@app.command()
def merge(
    location: Location, other: Annotated[str, typer.Argument(help="The store to add to it.")], as_json: o.Json = False
) -> None:
    """Add everything in another store; what the first one has stays."""
    _report(merge_stores(o.open_store(location), o.open_store(other)), as_json)


@app.command()
def verify(location: Location, as_json: o.Json = False) -> None:
    """Check everything in a store; ends with 1 if something is damaged."""
    opened = o.open_store(location)
    problems = opened.verify()
    if as_json:
        print_json({"tasks": len(opened), "problems": problems})
    else:
        typer.echo("\n".join(problems) or f"{len(opened)} tasks, nothing is damaged")
    if problems:
        raise typer.Exit(1)


@app.command()
def vacuum(location: Location, as_json: o.Json = False) -> None:
    """Give unused space back, and remove adapters that no task has."""
    _say({"adapters removed": o.open_store(location).vacuum()}, as_json)


def _one_of(location: str | None, store: str | None) -> str | None:
    """The store that was given as an argument or as an option.

    Raises:
        StoreError: it was given as both.
    """
    if location is not None and store is not None:
        raise StoreError(f"{location} and --store {store} are two stores; give one of both")
    return location if store is None else store


def _report(report: ImportReport, as_json: bool) -> None:
    if as_json:
        print_json(dataclasses.asdict(report))
        return
    rows = [(kind, str(len(names)), ", ".join(names[:5])) for kind, names in dataclasses.asdict(report).items()]
    print_table("Store", ("", "", ""), rows)


def _read_trials(path: Path) -> list[tuple[str, Trial]]:
    """Trials, each with the name of its task, empty where the line has none; blank lines are passed over.

    Raises:
        StoreError: the file is no text, a line is no trial, or two are results of the same one.
    """
    try:
        lines = path.read_text("utf-8").split("\n")
    except UnicodeDecodeError as error:
        raise StoreError(f"{path} is no text, and so holds no trials; give JSON lines (see Trial.to_dict)") from error
    found: dict[int, tuple[str, Trial]] = {}
    for number, line in enumerate(lines, 1):
        try:
            if line.strip():
                found[number] = Trial.from_line(line)
        except (ValueError, TypeError, AttributeError) as error:
            raise StoreError(f"line {number} of {path} is not a trial ({error}); see Trial.to_dict") from error
    seen: dict[object, int] = {}
    for number, (name, trial) in found.items():
        first = seen.setdefault((name, *trial.key), number)
        if found[first][1] != trial:
            raise StoreError(f"lines {first} and {number} of {path} are two results of one trial; keep one of them")
    return list(found.values())


def _say(facts: dict[str, object], as_json: bool) -> None:
    if as_json:
        print_json(facts)
    else:
        print_facts("Store", facts)
