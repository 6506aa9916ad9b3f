"""Arguments and options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

import task2vec
from adapters import DEFAULT_BACKBONE
from selection.cli.output import print_unreadable
from selection.errors import StoreError
from selection.evidence.library import load_library
from selection.store import TaskStore
from task2vec import DEFAULT_PROBE, Task, TaskEmbedding

Source = Annotated[Path, typer.Argument(help="Folder or zip of images in class folders, or a saved embedding.")]
Images = Annotated[Path, typer.Argument(help="Folder or zip of images in class folders.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")]
Store = Annotated[
    str | None, typer.Option("--store", help="Task store: a file or a URL; the shipped library if not given.")
]
ProbeName = Annotated[str, typer.Option("--probe", help="timm model to embed with.")]
ProbeWeights = Annotated[Path | None, typer.Option("--probe-weights", help="Local weights of the probe.")]
Backbone = Annotated[str, typer.Option("--backbone", help="timm model to tune.")]
Checkpoint = Annotated[Path | None, typer.Option("--checkpoint", help="Local weights of the backbone.")]
Split = Annotated[str | None, typer.Option(help="Which split of the folder to take, if it has several.")]
DistanceName = Annotated[str, typer.Option("--distance", help=f"One of {', '.join(sorted(task2vec.DISTANCES))}.")]
Seed = Annotated[int, typer.Option(help="Fixes everything that is drawn at random.")]

PROBE, BACKBONE, DISTANCE = DEFAULT_PROBE, DEFAULT_BACKBONE, "log_cosine"


def open_store(location: str | None) -> TaskStore:
    """The store at a file, which must be there, or behind a URL, or the shipped library.

    Raises:
        StoreError: there is no such file, or it is not a store.
    """
    if location is None:
        return load_library()
    if "://" not in location and not Path(location).exists():
        raise StoreError(f"there is no task store at {location}; make one with task2vec store create {location}")
    return TaskStore(location)


def embedding_of(source: Path, probe: str, weights: Path | None, split: str | None, seed: int) -> TaskEmbedding:
    """The embedding saved at `source`, or that of the images there; says which images could not be read."""
    if source.is_file() and source.suffix == ".safetensors":
        embedding = TaskEmbedding.load(source)
    else:
        task = Task.from_folder(source, split=split)
        embedding = task2vec.embed(task, task2vec.load_probe(probe, checkpoint=weights), seed=seed, progress=True)
    print_unreadable(embedding)
    return embedding
