"""`task2vec embed`: a folder of images becomes a saved embedding."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

import task2vec
from selection.cli import options as o
from selection.cli.output import describe_embedding, print_facts, print_json, print_unreadable
from task2vec import DEFAULT_METHOD, Task


def embed(
    images: o.Images,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Where to save; NAME.safetensors if not given.")
    ] = None,
    name: Annotated[str | None, typer.Option(help="What to call the task; the folder's name if not given.")] = None,
    split: o.Split = None,
    probe: o.ProbeName = o.PROBE,
    probe_weights: o.ProbeWeights = None,
    method: Annotated[str, typer.Option(help=f"One of {', '.join(sorted(task2vec.ESTIMATORS))}.")] = DEFAULT_METHOD,
    draws: Annotated[int, typer.Option(help="Labels or sign combinations drawn for each image.")] = 1,
    from_layer: Annotated[str | None, typer.Option(help="Measure only from this module of the probe on.")] = None,
    device: o.Device = "auto",
    precision: o.Precision = "auto",
    workers: o.Workers = "auto",
    max_samples: Annotated[int, typer.Option(help="At most so many images.")] = 10_000,
    seed: o.Seed = 0,
    thumbnails: o.Thumbnails = False,
    as_json: o.Json = False,
) -> None:
    """Embed a labelled image folder and save the embedding."""
    task = Task.from_folder(images, split=split, name=name)
    network = task2vec.load_probe(probe, checkpoint=probe_weights)
    embedding = task2vec.embed(
        task,
        network,
        method,
        draws=draws,
        from_layer=from_layer,
        compute=o.compute_of(device, precision, workers),
        max_samples=max_samples,
        seed=seed,
        thumbnails=thumbnails,
        progress=True,
    )
    path = out or Path(f"{embedding.task}.safetensors")
    embedding.save(path)
    print_unreadable(embedding)
    facts = describe_embedding(embedding) | {"saved": str(path)}
    if as_json:
        print_json(facts)
        return
    print_facts("Task embedding", facts | {"unreadable images": len(embedding.unreadable)})
