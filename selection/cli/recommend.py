"""`task2vec recommend`: which adapter to tune, before tuning anything."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import timm
import typer
from torch import nn

import selection
from selection.atlas.write import report as write_report
from selection.cli import options as o
from selection.cli.output import print_json, print_recommendation
from selection.errors import SelectionError
from selection.evidence.backbone import load_backbone
from selection.recommendation.facts import facts_of
from selection.results.folder import describe_recommendation
from selection.store import BackboneFacts
from task2vec import Compute, Task

MaxParams = Annotated[int | None, typer.Option(help="At most so many trainable parameters beside the classifier.")]
MaxSeconds = Annotated[float | None, typer.Option(help="At most so long an expected training.")]
MergeableOnly = Annotated[bool, typer.Option("--mergeable-only", help="Only methods that become a plain model.")]
Methods = Annotated[list[str] | None, typer.Option("--method", help="Only this method; may be given several times.")]
WithoutMethods = Annotated[
    list[str] | None, typer.Option("--without-method", help="Not this method; may be given several times.")
]
Within = Annotated[
    float | None, typer.Option(help="The cheapest expected within so much of the best, such as 0.01 for one point.")
]
Cost = Annotated[str, typer.Option(help="What --within makes cheap: seconds or parameters.")]
Recommender = Annotated[str, typer.Option(help=f"One of {', '.join(sorted(selection.RECOMMENDERS))}.")]


def recommend(
    source: o.Source,
    backbone: o.Backbone = o.BACKBONE,
    checkpoint: o.Checkpoint = None,
    store: o.Store = None,
    recommender: Recommender = selection.DEFAULT_RECOMMENDER,
    max_params: MaxParams = None,
    max_seconds: MaxSeconds = None,
    mergeable_only: MergeableOnly = False,
    methods: Methods = None,
    without_methods: WithoutMethods = None,
    within: Within = None,
    cost: Cost = "seconds",
    split: o.Split = None,
    probe: o.ProbeName = o.PROBE,
    probe_weights: o.ProbeWeights = None,
    device: o.Device = "auto",
    precision: o.Precision = "auto",
    workers: o.Workers = "auto",
    seed: o.Seed = 0,
    report: Annotated[
        Path | None, typer.Option(help="Also write the recommendation as a page to send to others.")
    ] = None,
    as_json: o.Json = False,
) -> None:
    """Recommend an adapter configuration for a task, with the evidence.

    Where images are given and the backbone's weights are at hand, a linear probe says what tuning starts from.
    """
    opened = o.open_store(store)
    compute = o.compute_of(device, precision, workers)
    embedding = o.embedding_of(source, probe, probe_weights, split, seed, compute)
    model, facts = _look(source, split, backbone, checkpoint, compute)
    found = selection.recommend(
        embedding,
        opened,
        backbone if model is None else model,
        facts=facts,
        recommender=recommender,
        max_params=max_params,
        max_seconds=max_seconds,
        mergeable_only=mergeable_only,
        methods=methods,
        without_methods=without_methods or (),
        within=within,
        cost=cost,  # type: ignore[arg-type]
    )
    if report is not None:
        typer.echo(f"wrote {write_report(found, embedding, opened, report, backbone=backbone)}", err=True)
    if as_json:
        print_json({"task": embedding.task} | describe_recommendation(found))
    else:
        print_recommendation(found)


def _look(
    source: Path, split: str | None, backbone: str, checkpoint: Path | None, compute: Compute
) -> tuple[nn.Module | None, BackboneFacts | None]:
    """The backbone, and what the images look like to it; nothing for a saved embedding, or without the weights."""
    if source.is_file() and source.suffix == ".safetensors":
        return None, None
    try:
        model = load_backbone(backbone, checkpoint)
    except SelectionError as error:
        if checkpoint is not None or not timm.is_model(backbone):
            raise
        typer.echo(f"without a look through the backbone: {error}", err=True)
        return None, None
    task = Task.from_folder(source, split=split)
    return model, None if task.multi_label else facts_of(task, model, compute=compute)
