"""Arguments and options that several commands share."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer
from torch import nn

import task2vec
from adapters import DEFAULT_BACKBONE
from selection.cli.output import print_unreadable
from selection.errors import SelectionError, StoreError
from selection.evidence.backbone import load_backbone
from selection.evidence.library import load_library
from selection.jobs import Cluster
from selection.recommendation.default_backbone import default_backbone, shrinking
from selection.results.outputs import PICTURES, refuse_lost
from selection.store import TaskStore
from selection.store.engine import sqlite_file
from task2vec import DEFAULT_PROBE, Compute, ComputeError, Task, TaskEmbedding
from task2vec.tasks.splits import read_task

Source = Annotated[
    Path,
    typer.Argument(help="Folder or zip of images in class folders, a table of files and labels, or a saved embedding."),
]
Images = Annotated[
    Path, typer.Argument(help="Folder or zip of images in class folders, or a table of files and labels.")
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")]
Store = Annotated[
    str | None, typer.Option("--store", help="Task store: a file or a URL; the shipped library if not given.")
]
ProbeName = Annotated[str, typer.Option("--probe", help="timm model to embed with.")]
ProbeWeights = Annotated[Path | None, typer.Option("--probe-weights", help="Local weights of the probe.")]
Backbone = Annotated[str, typer.Option("--backbone", help="timm model to tune.")]
ChosenBackbone = Annotated[
    str | None,
    typer.Option("--backbone", help="timm model to tune, or hf-hub: and a repository; chosen by the images' size."),
]
Checkpoint = Annotated[Path | None, typer.Option("--checkpoint", help="Local weights of the backbone.")]
ImageSize = Annotated[
    int | None,
    typer.Option(
        min=1,
        help="Side in pixels at which --backbone reads the images; its own if not given. A smaller one is faster.",
    ),
]
Split = Annotated[str | None, typer.Option(help="Which split of the folder to take, if it has several.")]
Separator = Annotated[
    str | None, typer.Option(help="What stands between several labels of an image in a table, as in oak|ash.")
]
DistanceName = Annotated[str, typer.Option("--distance", help=f"One of {', '.join(sorted(task2vec.DISTANCES))}.")]
Device = Annotated[str, typer.Option(help="Where to compute: auto, cpu, cuda, cuda:1, mps.")]
Precision = Annotated[str, typer.Option(help="auto, none, bfloat16 or float16; auto is bfloat16 on an accelerator.")]
Workers = Annotated[str, typer.Option(help="Processes that read images: auto or a number.")]
OnRay = Annotated[
    bool,
    typer.Option("--ray", help="Run on Ray: this machine's cluster, or one that is started for it and ends with it."),
]
RayAddress = Annotated[str | None, typer.Option(help="Run on the Ray cluster whose head is at HOST:PORT.")]
Logs = Annotated[Path, typer.Option(help="Folder for the logs of what fails, each called by what failed.")]
Thumbnails = Annotated[
    bool,
    typer.Option(
        "--thumbnails",
        help="Keep 16 small pictures of the images, for the task's card in an atlas. Whoever gets the embedding, the "
        "store or an atlas of it sees them.",
    ),
]
Seed = Annotated[int, typer.Option(min=0, help="Fixes everything that is drawn at random.")]


def _check_picture(path: Path | None) -> Path | None:
    """Refuse a picture that cannot be drawn before anything long is done."""
    if path is None:
        return None
    if path.suffix.lower() not in PICTURES:
        raise SelectionError(f"{path} is no picture that can be drawn; give a {', '.join(PICTURES)} file")
    refuse_lost(path, "picture")
    return path


Picture = Annotated[
    Path | None, typer.Option("--plot", callback=_check_picture, help="Draw it too, into this PNG, PDF, SVG or JPEG.")
]
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


def cluster_of(
    ray: bool, address: str | None, cpus: float, gpus: float | None = None, memory: float | None = None
) -> Cluster | None:
    """The cluster that the options name; None for this process.

    Raises:
        SelectionError: they give a job too little, or give it something where there is no cluster.
    """
    if ray or address is not None:
        return Cluster(address, cpus, gpus, memory)
    if (cpus, gpus, memory) != (1, None, None):
        raise SelectionError("what a job gets of a cluster needs one; give --ray too")
    return None


def backbone_name(named: str | None, checkpoint: Path | None, task: Task | None, image_size: int | None = None) -> str:
    """The backbone that was named, or the one for a task's images, of which standard error then says why.

    Raises:
        SelectionError: there are weights or a size without a name of what they are for.
    """
    if named is not None:
        return named
    if checkpoint is not None:
        raise SelectionError(f"--checkpoint {checkpoint} has the weights of one model; name it with --backbone")
    if image_size is not None:
        raise SelectionError(f"--image-size {image_size} is of one model; name it with --backbone")
    if task is None:
        return DEFAULT_BACKBONE
    choice = default_backbone(task)
    typer.echo(f"Backbone {choice.name}: {choice.reason}.", err=True)
    return choice.name


def load_chosen(
    named: str | None, checkpoint: Path | None, task: Task, image_size: int | None = None
) -> tuple[str, nn.Module]:
    """The backbone that was named, or the one for a task's images, with its name.

    Standard error says which was chosen and why, and if it takes much smaller images than the task's.

    Raises:
        SelectionError: the weights of the backbone that was named cannot be had or do not fit, or it takes no images of
            this size.
    """
    name = backbone_name(named, checkpoint, task, image_size)
    try:
        model = load_backbone(name, checkpoint, image_size=image_size)
    except SelectionError as error:
        if named is not None or name == DEFAULT_BACKBONE:
            raise
        typer.echo(f"Backbone {DEFAULT_BACKBONE} instead: {error}.", err=True)
        name, model = DEFAULT_BACKBONE, load_backbone(DEFAULT_BACKBONE)
    if note := shrinking(task, model):
        typer.echo(f"{note[0].upper()}{note[1:]}.", err=True)
    return name, model


def open_store(location: str | None) -> TaskStore:
    """The store at a file, which must be there, or behind a URL, or the shipped library.

    Raises:
        StoreError: there is no such file, or it is not a store.
    """
    if location is None:
        return load_library()
    file = sqlite_file(location)
    if file is not None and not file.exists():
        raise StoreError(f"there is no task store at {location}; make one with task2vec store create {location}")
    return TaskStore(location)


@contextmanager
def store_to_fill(location: str) -> Iterator[TaskStore]:
    """The store at a file or behind a URL, made if it is not there; a file that stays empty is removed again.

    Raises:
        StoreError: the place cannot be used, or holds something else than a store.
    """
    file = sqlite_file(location)
    is_new = file is not None and not file.exists()
    store = TaskStore(location)
    try:
        yield store
    except BaseException:
        if is_new and file is not None and not len(store):
            store.close()
            for suffix in ("", "-wal", "-shm"):
                file.with_name(file.name + suffix).unlink(missing_ok=True)
        raise


def is_embedding(source: Path) -> bool:
    """Whether a source is a saved embedding, and no images."""
    return source.is_file() and source.suffix == ".safetensors"


def embedding_of(
    source: Path,
    probe: str,
    weights: Path | None,
    split: str | None,
    seed: int,
    compute: Compute,
    *,
    separator: str | None = None,
    thumbnails: bool = False,
) -> TaskEmbedding:
    """The embedding saved at `source`, or that of the images there; says which images could not be read.

    Raises:
        SelectionError: of a saved embedding, thumbnails are asked for that it lacks, or a separator is given.
    """
    if is_embedding(source):
        if separator is not None:
            raise SelectionError(f"--separator {separator} is of a table, but {source} is an embedding; leave it out")
        embedding = TaskEmbedding.load(source)
        if thumbnails and not embedding.thumbnails:
            raise SelectionError(f"{source} has no thumbnails; embed the images with --thumbnails, or give the images")
    else:
        task = read_task(source, split=split, separator=separator)
        network = task2vec.load_probe(probe, checkpoint=weights)
        embedding = task2vec.embed(task, network, compute=compute, seed=seed, thumbnails=thumbnails, progress=True)
    print_unreadable(embedding.unreadable)
    return embedding
