"""`task2vec tune` and `task2vec merge`: from images to a tuned model, and from an adapter to a plain one."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

import adapters
import selection
import task2vec
from adapters import AdapterConfig, ConfigError
from adapters.losses import LOSSES, SAMPLINGS
from selection.cli import options as o
from selection.cli.output import brief, print_facts, print_json, print_recommendation
from selection.cli.recommend import MaxParams, MaxSeconds, MergeableOnly, Within
from selection.evidence.backbone import load_backbone
from selection.jobs.failures import LOGS
from selection.results.description import FILE as RESULT
from selection.results.folder import describe_recommendation, save_merged
from selection.results.lock import refuse_among_images
from selection.results.outputs import refuse_lost
from selection.results.result import MERGED, load_adapted
from task2vec import Splits, read_splits
from task2vec.tasks.splits import read_task

Seconds = Annotated[float | None, typer.Option(help="Time to spend on tries, in seconds, instead of a number of them.")]
Settings = Annotated[
    list[str] | None,
    typer.Option("--set", help="A setting of the method, such as rank=8; may be given several times, with --method."),
]


def tune(
    images: o.Images,
    out: Annotated[Path, typer.Option("--out", "-o", help="Directory for adapter, metrics and merged weights.")],
    backbone: o.ChosenBackbone = None,
    checkpoint: o.Checkpoint = None,
    image_size: o.ImageSize = None,
    method: Annotated[
        str | None, typer.Option(help=f"Instead of the recommendation: {', '.join(sorted(adapters.METHODS))}.")
    ] = None,
    bottleneck: Annotated[int | None, typer.Option(help="Width of a bottleneck adapter, with --method.")] = None,
    rank: Annotated[int | None, typer.Option(help="Rank of LoRA or FacT, with --method.")] = None,
    prompts: Annotated[int | None, typer.Option(help="Learned tokens of VPT, with --method.")] = None,
    epochs: Annotated[int | None, typer.Option(help="Passes over the images, with --method.")] = None,
    learning_rate: Annotated[float | None, typer.Option(help="Peak learning rate, with --method.")] = None,
    weight_decay: Annotated[float | None, typer.Option(help="Weight decay, with --method.")] = None,
    batch_size: Annotated[int | None, typer.Option(help="Images in a step, with --method.")] = None,
    augment: Annotated[str | None, typer.Option(help="none, light or timm, with --method.")] = None,
    settings: Settings = None,
    loss: Annotated[
        str,
        typer.Option(
            help="auto, cross_entropy, weighted_cross_entropy (classes count the same), binary_cross_entropy."
        ),
    ] = "auto",
    sampling: Annotated[
        str, typer.Option(help="uniform, or balanced: all classes are drawn equally often.")
    ] = "uniform",
    log: Annotated[str | None, typer.Option(help="Also log each epoch to csv or tensorboard.")] = None,
    store: o.Store = None,
    probe: o.ProbeName = o.PROBE,
    probe_weights: o.ProbeWeights = None,
    tries: Annotated[int | None, typer.Option(help="Tune so many recommendations and keep the best.", min=1)] = None,
    seconds: Seconds = None,
    max_params: MaxParams = None,
    max_seconds: MaxSeconds = None,
    mergeable_only: MergeableOnly = False,
    within: Within = None,
    split: o.Split = None,
    separator: o.Separator = None,
    device: o.Device = "auto",
    precision: o.Precision = "auto",
    workers: o.Workers = "auto",
    ray: o.OnRay = False,
    ray_address: o.RayAddress = None,
    cpus: Annotated[float, typer.Option("--cpus-per-try", help="CPUs of a try on Ray, and its threads.")] = 1,
    gpus: Annotated[
        float | None,
        typer.Option("--gpus-per-try", help="GPUs of a try on Ray, or a share such as 0.25; 1 if there are any."),
    ] = None,
    memory: Annotated[
        float | None, typer.Option("--memory-per-try", help="GB set aside for a try on Ray; none if not given.")
    ] = None,
    seed: o.Seed = 0,
    as_json: o.Json = False,
) -> None:
    """Tune the recommended configuration (or the one given) on a task; a killed run resumes where it stopped."""
    chosen: dict[str, Any] = {
        "bottleneck": bottleneck, "rank": rank, "prompts": prompts, "epochs": epochs, "learning_rate": learning_rate,
        "weight_decay": weight_decay, "batch_size": batch_size, "augment": augment,
    }  # fmt: skip
    texts = {name: str(value) for name, value in chosen.items() if value is not None} | _settings(settings or ())
    limits: dict[str, Any] = {
        "tries": tries, "seconds": seconds, "max_params": max_params, "max_seconds": max_seconds, "within": within,
        "mergeable_only": mergeable_only,
    }  # fmt: skip
    guides = limits | {
        "store": store, "probe": None if probe == o.PROBE else probe, "probe_weights": probe_weights,
        "ray": ray, "ray_address": ray_address,
    }  # fmt: skip
    training: dict[str, Any] = {"loss": loss, "sampling": sampling, "log": log}
    _check(training)
    given = [name for name, value in guides.items() if not (value is None or value is False)]  # 0.0 is given
    config = _config(method, texts, given)
    compute = o.compute_of(device, precision, workers)
    cluster = o.cluster_of(ray, ray_address, cpus, gpus, memory)
    refuse_among_images(out, images)
    if split is None:
        splits = read_splits(images, separator=separator)
    else:
        splits = Splits(read_task(images, split=split, separator=separator))
    if not as_json:
        typer.echo(f"Read {splits}")
    name, model = o.load_chosen(backbone, checkpoint, splits.train, image_size)
    shared: dict[str, Any] = training | {"compute": compute, "out": out, "seed": seed}
    recommendation = None
    if config is None:
        network = task2vec.load_probe(probe, checkpoint=probe_weights)
        found = selection.auto_tune(
            splits, model, o.open_store(store), probe=network, **limits, **shared, cluster=cluster
        )
        tuned: selection.Tuned = found
        recommendation = found.recommendation
        if found.failed:
            typer.echo(f"Failed, with logs in {out / LOGS}: {'; '.join(found.failed)}", err=True)
    else:
        tuned = selection.tune(splits, model, config, **shared)
    facts = {
        "config": adapters.adapter_of(tuned.model).config.to_dict(),
        "backbone": name,
        "validation_accuracy": tuned.fit.best.accuracy,
        "test_accuracy": None if tuned.test is None else tuned.test.accuracy,
        **_of_several_labels(splits, tuned),
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
    facts["config"] = brief(adapters.adapter_of(tuned.model).config)
    print_facts("Tuned", facts)


def _of_several_labels(splits: Splits, tuned: selection.Tuned) -> dict[str, float | None]:
    """Mean average precision on the test images: accuracy counts labels there, most of which are easy to tell."""
    if not splits.train.multi_label:
        return {}
    return {"test_mean_average_precision": None if tuned.test is None else tuned.test.mean_average_precision}


def _check(training: dict[str, Any]) -> None:
    """Refuse what no training takes before images are read.

    Raises:
        ConfigError: a value is unknown.
    """
    known = {"loss": ("auto", *LOSSES), "sampling": SAMPLINGS, "log": (None, *adapters.LOGS)}
    for name, values in known.items():
        if training[name] not in values:
            raise ConfigError(f"--{name} {training[name]} is unknown; choose from {', '.join(filter(None, values))}")


def _settings(given: list[str] | tuple[str, ...]) -> dict[str, str]:
    """`name=value` texts as names and values.

    Raises:
        ConfigError: one has no `=`.
    """
    pairs = [text.partition("=") for text in given]
    wrong = next((text for text, (_, sign, _) in zip(given, pairs, strict=True) if not sign), None)
    if wrong is not None:
        raise ConfigError(f"--set {wrong} sets nothing; give a name and a value, such as rank=8")
    return {name: value for name, _, value in pairs}


def _config(method: str | None, texts: dict[str, str], guides: list[str]) -> AdapterConfig | None:
    """The configuration that was asked for; None for the recommended one.

    Raises:
        ConfigError: settings without a method, or guides of the recommendation with one.
    """
    if method is None:
        if texts:
            raise ConfigError(f"{', '.join(texts)}: settings belong to a method; give --method too")
        return None
    if guides:
        options = ", ".join(f"--{name.replace('_', '-')}" for name in guides)
        raise ConfigError(f"{options} guide the recommendation, which --method {method} replaces; give one of both")
    return AdapterConfig.from_texts(method, texts)


def merge(
    adapter: Annotated[Path, typer.Argument(help="Directory that `task2vec tune` or adapters.save wrote.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Where to write the plain model's weights.")],
    checkpoint: o.Checkpoint = None,
    as_json: o.Json = False,
) -> None:
    """Fold a tuned adapter into its backbone and write the plain timm model's weights."""
    metadata = adapters.read_metadata(adapter)
    refuse_lost(out, "file of weights", read=checkpoint)
    name = metadata["backbone"]
    if (adapter / RESULT).exists():
        model = load_adapted(adapter, checkpoint=checkpoint)
    else:
        model = adapters.load(load_backbone(name, checkpoint), adapter)
    save_merged(adapters.merge(model), out)
    facts = {"backbone": name, "num_classes": metadata["num_classes"], "saved": str(out)}
    if as_json:
        print_json(facts)
    else:
        print_facts("Merged", facts)
