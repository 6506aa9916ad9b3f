"""`task2vec demo`: the whole way on scikit-learn's handwritten digits, with nothing but the package."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import torch
import typer
from rich.console import Console

import adapters
import selection
import task2vec
from adapters import AdapterConfig
from adapters.data import Batches, transform_of
from adapters.run import METRICS, TRAINING
from selection.cli import options as o
from selection.cli.output import print_json, print_recommendation, print_table
from selection.evidence.backbone import load_backbone
from selection.evidence.library import SIZE_TAGS
from selection.results.description import FILE as RESULT
from selection.results.folder import describe_recommendation
from selection.results.result import MERGED
from selection.store import TaskFilter
from task2vec import Task

TEST_SHARE = 0.4


def digits() -> Task:
    """scikit-learn's 1,797 handwritten digits of 8 x 8 grey pixels."""
    from sklearn.datasets import load_digits

    data = load_digits()
    return Task.from_arrays(data.images / 16, data.target, name="digits")


def demo(
    out: Annotated[
        Path, typer.Option("--out", "-o", help="Directory for the figure, the adapter and the weights.")
    ] = Path("task2vec-demo"),
    seed: o.Seed = 0,
    as_json: o.Json = False,
) -> None:
    """Embed the digits, find their relatives, tune what worked there, and compare with a linear probe."""
    console = Console(stderr=True)
    train, test = digits().split(TEST_SHARE, seed=seed)
    library = selection.load_library()
    console.print(f"1. Embedding the target: {len(train)} digits of 10 classes")
    embedding = task2vec.embed(train, task2vec.load_probe(), seed=seed, progress=True)
    # Embeddings of few images are noisier, so that like is compared with like here: with tasks taken whole.
    neighbours = library.nearest(embedding, 5, which=TaskFilter(without_tags=SIZE_TAGS))
    console.print("2. Asking the shipped library")
    recommendation = selection.recommend(embedding, library)
    if not as_json:
        print_table("Nearest stored tasks", ("task", "distance"), ((n.name, f"{n.distance:.3f}") for n in neighbours))
        print_recommendation(recommendation)
    console.print(f"3. Tuning the recommendation, {recommendation.config.label}, and a linear probe")
    tuned = _tune_afresh(train, recommendation.config, out / "adapter", seed)
    # Digits want larger weights than the default decay leaves: it would make the baseline weaker than it is.
    probe = _tune_afresh(train, AdapterConfig("linear", weight_decay=1e-4), out / "linear", seed)
    scored = Batches(test, transform_of(tuned.model))
    merge = None if tuned.merged is None else _compare(tuned.model, tuned.merged, scored)
    facts = {
        "nearest": [{"task": n.name, "distance": n.distance} for n in neighbours],
        "recommendation": describe_recommendation(recommendation),
        "accuracy": adapters.evaluate(tuned.model, scored).accuracy,
        "linear_probe_accuracy": adapters.evaluate(probe.model, scored).accuracy,
        "merge": merge,
        "map": str(out / "map.png"),
        "adapter": str(out / "adapter"),
        "merged": None if tuned.merged is None else str(out / "adapter" / MERGED),
    }
    stored = [e for e in library.embeddings(embedding.probe, embedding.method) if "@" not in e.task]
    task2vec.plot_map([*stored, embedding], highlight=[embedding.task]).savefig(out / "map.png", dpi=120)
    if as_json:
        print_json(facts)
        return
    print_table(
        f"Test accuracy on {len(test)} digits that were not tuned on",
        ("", "accuracy"),
        (
            (recommendation.config.label, f"{facts['accuracy']:.1%}"),
            ("linear probe", f"{facts['linear_probe_accuracy']:.1%}"),
        ),
    )
    if merge is None:
        reason = adapters.METHODS[recommendation.config.method].cannot_merge
        typer.echo(f"{recommendation.config.method} cannot merge: {reason}.")
    else:
        typer.echo(
            "Merged into a plain timm model; largest difference to the unmerged outputs: "
            f"{merge['largest_difference']:.1e}, among outputs of up to {merge['largest_output']:.0f}."
        )
    typer.echo(f"Written to {out}/: map.png, adapter/, linear/")


def _tune_afresh(task: Task, config: AdapterConfig, out: Path, seed: int) -> selection.Tuned:
    for earlier in (TRAINING, METRICS, RESULT):  # an earlier demo's run is not to be resumed
        (out / earlier).unlink(missing_ok=True)
    return selection.tune(task, load_backbone(o.BACKBONE), config, out=out, seed=seed)


@torch.no_grad()
def _compare(model: torch.nn.Module, merged: torch.nn.Module, images: Batches) -> dict[str, float]:
    """Largest absolute difference between the outputs of two models, and the largest output."""
    device = next(model.parameters()).device
    batches = [images.take(indices)[0].to(device) for indices in torch.arange(len(images)).split(128)]
    outputs, plain = torch.cat([model(b) for b in batches]), torch.cat([merged(b) for b in batches])
    return {"largest_difference": float((outputs - plain).abs().max()), "largest_output": float(outputs.abs().max())}
