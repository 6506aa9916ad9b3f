"""The backbone that is tuned: a model as it is, or a timm name with its weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import nn

from selection.errors import SelectionError
from task2vec.errors import WeightsError
from task2vec.weights import HUB, timm_model


def load_backbone(
    backbone: str | nn.Module, checkpoint: str | Path | None = None, *, image_size: int | None = None
) -> nn.Module:
    """A model as it is, or timm's model of that name with its pretrained weights or those of a local file.

    Args:
        backbone: A model; a name of timm, with or without a tag; or `hf-hub:` and a repository on the hub.
        checkpoint: Local weights; the pretrained ones, from timm's cache or the hub, if not given.
        image_size: Side of the images that it is to take, in pixels; its own size if not given. Smaller images take
            less time, and where stored trials were made at the same size, they tell more.

    Raises:
        SelectionError: timm does not know the name, the weights cannot be had or do not fit, or the backbone takes no
            images of this size, which a model as it is keeps.
    """
    if isinstance(backbone, nn.Module):
        return backbone
    try:
        return timm_model(backbone, checkpoint, image_size=image_size)
    except WeightsError as error:
        raise SelectionError(str(error)) from error


def source_of(backbone: nn.Module) -> str:
    """The name that loads a backbone's pretrained weights again, if it is one of the hub; empty otherwise."""
    config: Any = getattr(backbone, "pretrained_cfg", None) or {}
    return f"{HUB}{config['hf_hub_id']}" if config.get("source") == "hf-hub" else ""
