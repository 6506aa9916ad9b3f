"""The backbone that is tuned: a model as it is, or a timm name with its weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import nn

from selection.errors import SelectionError
from task2vec.errors import WeightsError
from task2vec.weights import HUB, timm_model


def load_backbone(
    backbone: str | nn.Module, checkpoint: str | Path | None = None, *, img_size: int | None = None
) -> nn.Module:
    """A model as it is, or timm's model of that name with its pretrained weights or those of a local file.

    Args:
        backbone: A model; a name of timm, with or without a tag; or `hf-hub:` and a repository on the hub.
        checkpoint: Local weights; the pretrained ones, from timm's cache or the hub, if not given.
        img_size: Side of the images that it is to take, where its architecture has a fixed one.

    Raises:
        SelectionError: timm does not know the name, or the weights cannot be had or do not fit.
    """
    if isinstance(backbone, nn.Module):
        return backbone
    try:
        return timm_model(backbone, checkpoint, **({} if img_size is None else {"img_size": img_size}))
    except WeightsError as error:
        raise SelectionError(str(error)) from error


def source_of(backbone: nn.Module) -> str:
    """The name that loads a backbone's pretrained weights again, if it is one of the hub; empty otherwise."""
    config: Any = getattr(backbone, "pretrained_cfg", None) or {}
    return f"{HUB}{config['hf_hub_id']}" if config.get("source") == "hf-hub" else ""
