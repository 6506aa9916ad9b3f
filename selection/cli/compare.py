"""`task2vec distance` and `task2vec nearest`: how tasks relate."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

import task2vec
from selection.cli import options as o
from selection.cli.output import print_json, print_table
from task2vec import TaskEmbedding


def distance(
    embeddings: Annotated[list[Path], typer.Argument(help="Two or more saved embeddings.")],
    name: o.DistanceName = o.DISTANCE,
    plot: o.Picture = None,
    as_json: o.Json = False,
) -> None:
    """Print the distances between saved embeddings."""
    loaded = [TaskEmbedding.load(path) for path in embeddings]
    matrix = task2vec.distance_matrix(loaded, name)
    if plot is not None:
        task2vec.plot_distances(loaded, name).savefig(plot)
    names = [e.task for e in loaded]
    if as_json:
        print_json({"distance": name, "tasks": names, "matrix": matrix.tolist()})
        return
    rows = ((task, *(f"{d:.4f}" for d in row)) for task, row in zip(names, matrix, strict=True))
    print_table(f"{name} distance, from row to column", ("", *names), rows)


def nearest(
    source: o.Source,
    store: o.Store = None,
    k: Annotated[int, typer.Option("-k", help="How many.", min=1)] = 5,
    name: o.DistanceName = o.DISTANCE,
    split: o.Split = None,
    separator: o.Separator = None,
    probe: o.ProbeName = o.PROBE,
    probe_weights: o.ProbeWeights = None,
    device: o.Device = "auto",
    precision: o.Precision = "auto",
    workers: o.Workers = "auto",
    seed: o.Seed = 0,
    as_json: o.Json = False,
) -> None:
    """List the stored tasks that are nearest to a task."""
    opened = o.open_store(store)
    compute = o.compute_of(device, precision, workers)
    embedding = o.embedding_of(source, probe, probe_weights, split, seed, compute, separator=separator)
    found = opened.nearest(embedding, k, distance=name)
    if as_json:
        print_json({"task": embedding.task, "nearest": [{"task": n.name, "distance": n.distance} for n in found]})
        return
    rows = ((n.name, f"{n.distance:.4f}", str(len(n.embedding.classes)), str(n.embedding.num_samples)) for n in found)
    print_table(f"Nearest to {embedding.task} by {name}", ("task", "distance", "classes", "images"), rows)
