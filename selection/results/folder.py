"""Write a result folder: adapter, merged model, description, model card and curves."""

from __future__ import annotations

import dataclasses
import platform
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import timm
import torch
from safetensors.torch import save as to_bytes
from torch import nn

import adapters
from selection.errors import SelectionError
from selection.recommendation.result import Recommendation
from selection.results.card import card
from selection.results.description import FILE, Description
from selection.results.known_outputs import gives
from selection.results.result import MERGED, plain_model
from task2vec.style import in_style
from task2vec_base import write_atomically

if TYPE_CHECKING:
    from matplotlib.figure import Figure

CARD, CURVES = "README.md", "curves.png"


def write_result(
    folder: Path,
    model: nn.Module,
    merged: nn.Module | None,
    description: Description,
    history: Sequence[Mapping[str, float]],
) -> None:
    """Write everything that a result is.

    Args:
        folder: Made if it is not there.
        model: The backbone with its adapter.
        merged: The plain model, if the method can merge.
        description: What it is.
        history: A record for each epoch.
    """
    adapters.save(model, folder, class_names=description.class_names)
    if merged is not None:
        save_merged(merged, folder / MERGED)
    else:  # one that an earlier training left here would be taken for this one's
        (folder / MERGED).unlink(missing_ok=True)
    write_atomically(folder / FILE, lambda path: path.write_text(description.to_json()))
    alone = merged is not None and _loads_alone(description, folder / MERGED)
    write_atomically(folder / CARD, lambda path: path.write_text(card(description, merged=alone)))
    plot_history(history).savefig(folder / CURVES, dpi=110)


def _loads_alone(description: Description, merged: Path) -> bool:
    """Whether timm makes the merged model from the backbone's name: not if it was made with further arguments."""
    if not (timm.is_model(description.backbone.split(".")[0]) and description.outputs):
        return False
    try:
        model = plain_model(description, merged).eval()
        return gives(model, description.preprocessing["input_size"], description.outputs)
    except SelectionError:
        return False


def save_merged(merged: nn.Module, path: Path) -> None:
    """Write a plain model's weights, under the names that timm gives them."""
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in merged.state_dict().items()}
    write_atomically(path, lambda temporary: temporary.write_bytes(to_bytes(tensors)))


def versions() -> dict[str, str]:
    """Of what a result was made with."""
    return {"torch": torch.__version__, "timm": timm.__version__, "python": platform.python_version()}


def describe_recommendation(recommendation: Recommendation) -> dict[str, Any]:
    """A recommendation in plain values."""
    calibrated = recommendation.is_calibrated
    return {
        "config": recommendation.config.to_dict(),
        "predicted": recommendation.predicted if calibrated else None,
        "std": _number(recommendation.std),
        "interval": list(recommendation.candidate.interval) if calibrated else None,
        "level": recommendation.level,
        "fisher_by_block": None if recommendation.fisher is None else dataclasses.asdict(recommendation.fisher),
        "recommender": recommendation.recommender,
        "explanation": recommendation.explain(),
        "note": recommendation.note,
        "timed_here": recommendation.timed_here,
        "warm_start": None if recommendation.warm_start is None else str(recommendation.warm_start),
        "ranking": [
            vars(c)
            | {
                "predicted": c.accuracy if calibrated else None,
                "config": c.config.to_dict(),
                "label": c.config.label,
                "std": _number(c.std),
            }
            for c in recommendation.ranking
        ],
        "evidence": [vars(e) | {"best": e.best.to_dict()} for e in recommendation.evidence],
    }


def _number(value: float) -> float | None:
    """JSON knows no NaN."""
    return value if value == value else None


@in_style
def plot_history(history: Sequence[Mapping[str, float]]) -> Figure:
    """Training loss and validation accuracy by epoch."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 3.2), layout="constrained")
    epochs = [record["epoch"] for record in history]
    for axes, (name, label) in zip(
        figure.subplots(1, 2), (("loss", "training loss"), ("accuracy", "accuracy")), strict=True
    ):
        axes.plot(epochs, [record[name] for record in history], markersize=3)
        axes.set_xlabel("epoch")
        axes.set_ylabel(label)
    return figure
