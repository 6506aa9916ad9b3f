"""`task2vec tune` and `task2vec merge`: from images to a tuned model, and from an adapter to a plain one."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

import adapters
import selection
from adapters import AdapterConfig
from selection.cli import options as o
from selection.cli.output import describe_recommendation, print_json, print_recommendation, print_table
from selection.cli.recommend import MaxParams, MaxSeconds, MergeableOnly
from selection.evidence.backbone import load_backbone
from selection.tuning.one import MERGED, save_merged
from task2vec import Task


def tune(
    images: o.Images,
    out: Annotated[Path, typer.Option("--out", "-o", help="Directory for adapter, metrics and merged weights.")],
    backbone: o.Backbone = o.BACKBONE,
    checkpoint: o.Checkpoint = None,
    method: Annotated[
        str | None, typer.Option(help=f"Instead of the recommendation: {', '.join(sorted(adapters.METHODS))}.")
    ] = None,
    bottleneck: Annotated[int | None, typer.Option(help="Width of a bottleneck adapter, with --method.")] = None,
    rank: Annotated[int | None, typer.Option(help="Rank of LoRA or FacT, with --method.")] = None,
    prompts: Annotated[int | None, typer.Option(help="Learned tokens of VPT, with --method.")] = None,
    epochs: Annotated[int | None, typer.Option(help="Passes over the images, with --method.")] = None,
    store: o.Store = None,
    tries: Annotated[int, typer.Option(help="Tune so many recommendations and keep the best.", min=1)] = 1,
    max_params: MaxParams = None,
    max_seconds: MaxSeconds = None,
    mergeable_only: MergeableOnly = False,
    split: o.Split = None,
    seed: o.Seed = 0,
    as_json: o.Json = False,
) -> None:
    """Tune the recommended configuration (or the one given) on a task; a killed run resumes where it stopped."""
    task = Task.from_folder(images, split=split)
    model = load_backbone(backbone, checkpoint)
    recommendation = None
    if method is None:
        if any(size is not None for size in (bottleneck, rank, prompts, epochs)):
            raise adapters.ConfigError("bottleneck, rank, prompts and epochs belong to a method; give --method too")
        tuned: selection.Tuned = selection.auto_tune(
            task,
            model,
            o.open_store(store),
            tries=tries,
            max_params=max_params,
            max_seconds=max_seconds,
            mergeable_only=mergeable_only,
            out=out,
            seed=seed,
        )
        assert isinstance(tuned, selection.AutoTuned)
        recommendation = tuned.recommendation
    else:
        config = AdapterConfig(method, bottleneck=bottleneck, rank=rank, prompts=prompts, epochs=epochs)
        tuned = selection.tune(task, model, config, out=out, seed=seed)
    facts = {
        "config": adapters.adapter_of(tuned.model).config.to_dict(),
        "validation_accuracy": tuned.fit.best.accuracy,
        "best_epoch": tuned.fit.best_epoch,
        "seconds": tuned.fit.seconds,
        "parameters": adapters.num_adapter_parameters(tuned.model),
        "merged": None if tuned.merged is None else str(out / MERGED),
        "saved": str(out),
    }
    if as_json:
        why = {} if recommendation is None else {"recommendation": describe_recommendation(recommendation)}
        print_json(facts | why)
        return
    if recommendation is not None:
        print_recommendation(recommendation)
    facts["config"] = adapters.adapter_of(tuned.model).config.label
    print_table("Tuned", ("", ""), ((k.replace("_", " "), str(v)) for k, v in facts.items()))


def merge(
    adapter: Annotated[Path, typer.Argument(help="Directory that `task2vec tune` or adapters.save wrote.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Where to write the plain model's weights.")],
    checkpoint: o.Checkpoint = None,
    as_json: o.Json = False,
) -> None:
    """Fold a tuned adapter into its backbone and write the plain timm model's weights."""
    metadata = adapters.read_metadata(adapter)
    name = metadata["backbone"]
    model = adapters.load(load_backbone(name, checkpoint), adapter)
    merged = adapters.merge(model)
    save_merged(merged, out)
    facts = {"backbone": name, "num_classes": metadata["num_classes"], "saved": str(out)}
    if as_json:
        print_json(facts)
    else:
        print_table("Merged", ("", ""), ((k.replace("_", " "), str(v)) for k, v in facts.items()))
