"""`task2vec recommend`: which adapter to tune, before tuning anything."""

from __future__ import annotations

from typing import Annotated

import typer

import selection
from selection.cli import options as o
from selection.cli.output import describe_recommendation, print_json, print_recommendation

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
    seed: o.Seed = 0,
    as_json: o.Json = False,
) -> None:
    """Recommend an adapter configuration for a task, with the evidence."""
    opened = o.open_store(store)
    embedding = o.embedding_of(source, probe, probe_weights, split, seed)
    found = selection.recommend(
        embedding,
        opened,
        backbone,
        recommender=recommender,
        max_params=max_params,
        max_seconds=max_seconds,
        mergeable_only=mergeable_only,
        methods=methods,
        without_methods=without_methods or (),
        within=within,
        cost=cost,  # type: ignore[arg-type]
    )
    if as_json:
        print_json({"task": embedding.task} | describe_recommendation(found))
    else:
        print_recommendation(found)
