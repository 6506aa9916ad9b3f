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
from task2vec import DEFAULT_PROBE, Compute, ComputeError, Task, TaskEmbedding

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
Device = Annotated[str, typer.Option(help="Where to compute: auto, cpu, cuda, cuda:1, mps.")]
Precision = Annotated[str, typer.Option(help="auto, none, bfloat16 or float16; auto is bfloat16 on an accelerator.")]
Workers = Annotated[str, typer.Option(help="Processes that read images: auto or a number.")]
Seed = Annotated[int, typer.Option(help="Fixes everything that is drawn at random.")]

PROBE, BACKBONE, DISTANCE = DEFAULT_PROBE, DEFAULT_BACKBONE, "log_cosine"


def compute_of(device: str, precision: str, workers: str) -> Compute:
    """What the options for computing say.

    Raises:
        ComputeError: one of them is none of its values, or the device is not there.
    """
    if workers != "auto" and not workers.isdecimal():
        raise ComputeError(f"workers={workers!r} cannot read images; give 'auto', 0, or a number of processes")
    compute = Compute(device, precision, "auto" if workers == "auto" else int(workers))
    assert compute.torch_device  # a device that is not there is said before anything long is done
    return compute


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


def embedding_of(
    source: Path, probe: str, weights: Path | None, split: str | None, seed: int, compute: Compute
) -> TaskEmbedding:
    """The embedding saved at `source`, or that of the images there; says which images could not be read."""
    if source.is_file() and source.suffix == ".safetensors":
        embedding = TaskEmbedding.load(source)
    else:
        task = Task.from_folder(source, split=split)
        network = task2vec.load_probe(probe, checkpoint=weights)
        embedding = task2vec.embed(task, network, compute=compute, seed=seed, progress=True)
    print_unreadable(embedding)
    return embedding
