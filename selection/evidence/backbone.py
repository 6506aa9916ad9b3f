"""The backbone that is tuned: a model as it is, or a timm name with its weights."""

from __future__ import annotations

from pathlib import Path

import timm
from torch import nn

from selection.errors import SelectionError


def load_backbone(
    backbone: str | nn.Module, checkpoint: str | Path | None = None, *, img_size: int | None = None
) -> nn.Module:
    """A model as it is, or timm's model of that name with its pretrained weights or those of a local file.

    Args:
        backbone: A model, or a name of timm, with or without a tag.
        checkpoint: Local weights; the pretrained ones, from timm's cache or the hub, if not given.
        img_size: Side of the images that it is to take, where its architecture has a fixed one.

    Raises:
        SelectionError: timm does not know the name, or the weights cannot be had or do not fit.
    """
    if isinstance(backbone, nn.Module):
        return backbone
    if not timm.is_model(backbone):
        raise SelectionError(f"timm knows no model {backbone!r}; timm.list_models() names those it has")
    try:
        size = {} if img_size is None else {"img_size": img_size}
        if checkpoint is None:
            model: nn.Module = timm.create_model(backbone, pretrained=True, **size)
        else:  # as if they were pretrained ones, so that timm resamples what depends on the images' size
            weights = timm.models.load_state_dict(str(checkpoint), weights_only=True)
            overlay = {"state_dict": weights}
            model = timm.create_model(backbone, pretrained=True, pretrained_cfg_overlay=overlay, **size)
            del model.pretrained_cfg["state_dict"]  # type: ignore[operator, union-attr]
    except Exception as error:  # downloads and files fail in many ways, all with the same remedy
        source = f"weights from {checkpoint}" if checkpoint is not None else f"pretrained weights of {backbone}"
        raise SelectionError(f"cannot load {source} ({error}); give local weights of this model") from error
    return model
