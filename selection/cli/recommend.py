"""`task2vec recommend`: which adapter to tune, before tuning anything."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Annotated

import typer
from torch import nn

import selection
import task2vec
from adapters.data import transform_of
from selection.cli import options as o
from selection.cli.output import print_json, print_recommendation, print_unreadable
from selection.errors import SelectionError
from selection.pages.write import report as write_report
from selection.recommendation.facts import MOST_SEEN, facts_of
from selection.recommendation.pace import in_time
from selection.results.folder import describe_recommendation
from selection.results.outputs import refuse_lost
from task2vec import Compute, Probe, Splits, Task, TaskEmbedding
from task2vec.tasks.splits import read_task
from task2vec.weights import is_known

MaxParams = Annotated[int | None, typer.Option(help="At most so many trainable parameters beside the classifier.")]
MaxSeconds = Annotated[float | None, typer.Option(help="At most so long an expected training.")]
MergeableOnly = Annotated[bool, typer.Option("--mergeable-only", help="Only methods that become a plain model.")]
Methods = Annotated[list[str] | None, typer.Option("--method", help="Only this method; may be given several times.")]
WithoutMethods = Annotated[
    list[str] | None, typer.Option("--without-method", help="Not this method; may be given several times.")
]
Within = Annotated[
    float | None,
    typer.Option(help="The cheapest as likely as not within this of the best, such as 0.01 (a point)."),
]
Cost = Annotated[str, typer.Option(help="What --within makes cheap: seconds or parameters.")]
Recommender = Annotated[str, typer.Option(help=f"One of {', '.join(sorted(selection.RECOMMENDERS))}.")]


def recommend(
    source: o.Source,
    backbone: o.ChosenBackbone = None,
    checkpoint: o.Checkpoint = None,
    image_size: o.ImageSize = None,
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
    separator: o.Separator = None,
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
    if report is not None:
        refuse_lost(report, "page")
    opened = o.open_store(store)
    compute = o.compute_of(device, precision, workers)
    task = None if o.is_embedding(source) else read_task(source, split=split, separator=separator)
    name, model = _backbone(backbone, checkpoint, task, image_size)
    if model is not None:
        model.to(compute.device_for(next(model.parameters()).device))  # where it is looked through, and timed
    if task is None:
        embedding = o.embedding_of(source, probe, probe_weights, split, seed, compute, separator=separator)
    else:
        task, embedding = _embedded(task, task2vec.load_probe(probe, checkpoint=probe_weights), model, compute, seed)
    facts = None
    if model is not None and task is not None and not task.multi_label:
        facts = facts_of(task, model, compute=compute, progress=True)
    ask = partial(
        selection.recommend,
        embedding,
        opened,
        name if model is None else model,
        facts=facts,
        recommender=recommender,
        max_params=max_params,
        mergeable_only=mergeable_only,
        methods=methods,
        without_methods=without_methods or (),
        within=within,
        cost=cost,  # type: ignore[arg-type]
    )
    if model is None or task is None:
        found = ask(max_seconds=max_seconds)
    else:
        found = in_time(ask, max_seconds, model, Splits(task), compute)
    if report is not None:
        typer.echo(f"wrote {write_report(found, embedding, opened, report, backbone=name)}", err=True)
    if as_json:
        print_json({"task": embedding.task} | describe_recommendation(found))
    else:
        print_recommendation(found)


def _embedded(
    task: Task, probe: Probe, model: nn.Module | None, compute: Compute, seed: int
) -> tuple[Task, TaskEmbedding]:
    """The task and its embedding. Where all its images will be looked at, they are decoded once for both networks."""
    if model is not None and len(task) <= MOST_SEEN:
        task = task.decoded(probe.transform, transform_of(model), workers=compute.workers, progress=True)
    embedding = task2vec.embed(task, probe, compute=compute, seed=seed, progress=True)
    print_unreadable(embedding.unreadable)
    return task, embedding


def _backbone(
    named: str | None, checkpoint: Path | None, task: Task | None, image_size: int | None
) -> tuple[str, nn.Module | None]:
    """The backbone's name, and the backbone to look at the images through; none without images or weights."""
    if task is None:
        if image_size is not None:
            raise SelectionError(f"--image-size {image_size} is of images, and an embedding has none; leave it out")
        return o.backbone_name(named, checkpoint, None), None
    try:
        return o.load_chosen(named, checkpoint, task, image_size)
    except SelectionError as error:
        if named is None or not (checkpoint is None and image_size is None) or not is_known(named):
            raise
        typer.echo(f"Without a look through the backbone: {error}.", err=True)
        return named, None
