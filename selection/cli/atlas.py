"""`task2vec atlas`: a page on which the tasks of a store can be seen."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from selection.cli import options as o
from selection.pages.write import atlas as write_atlas


def atlas(
    store: Annotated[
        str | None, typer.Argument(help="Task store: a file or a URL; the shipped library if not given.")
    ] = None,
    out: Annotated[Path, typer.Option("--out", "-o", help="The page.")] = Path("atlas.html"),
    target: Annotated[
        Path | None, typer.Option(help="A task to place among them: a saved embedding, or a folder or zip of images.")
    ] = None,
    backbone: Annotated[
        str | None, typer.Option(help="Whose trials to show first; that with most trials if not given.")
    ] = None,
    advise: Annotated[
        bool | None,
        typer.Option(help="Recommend for every stored task; if neither is given, where at most 100 have trials."),
    ] = None,
    map_by: Annotated[
        str, typer.Option("--map", help="mds keeps distances as well as a plane can, tsne keeps neighbours together.")
    ] = "mds",
    thumbnails: Annotated[bool, typer.Option(help="Show pictures of the images of tasks that have some.")] = True,
    name: o.DistanceName = o.DISTANCE,
    split: o.Split = None,
    separator: o.Separator = None,
    probe: o.ProbeName = o.PROBE,
    probe_weights: o.ProbeWeights = None,
    device: o.Device = "auto",
    precision: o.Precision = "auto",
    workers: o.Workers = "auto",
    seed: o.Seed = 0,
) -> None:
    """Write one page with a map of the stored tasks, a card for each, and their distances; it needs no network."""
    opened = o.open_store(store)
    compute = o.compute_of(device, precision, workers)
    placed = None
    if target is not None:
        placed = o.embedding_of(target, probe, probe_weights, split, seed, compute, separator=separator)
    page = write_atlas(
        opened,
        out,
        target=placed,
        distance=name,
        backbone=backbone,
        advise=advise,
        map_by=map_by,
        thumbnails=thumbnails,
    )
    typer.echo(f"wrote {page} ({page.stat().st_size / 1e6:.1f} MB); open it in a browser")
