"""The backbone that is tuned: a model as it is, or a timm name with its weights."""

from __future__ import annotations

from pathlib import Path

import timm
from torch import nn

from selection.errors import SelectionError


def load_backbone(backbone: str | nn.Module, checkpoint: str | Path | None = None) -> nn.Module:
    """A model as it is, or timm's model of that name with its pretrained weights or those of a local file.

    Raises:
        SelectionError: timm does not know the name, or the weights cannot be had or do not fit.
    """
    if isinstance(backbone, nn.Module):
        return backbone
    if not timm.is_model(backbone):
        raise SelectionError(f"timm knows no model {backbone!r}; timm.list_models() names those it has")
    try:
        model: nn.Module = timm.create_model(backbone, pretrained=checkpoint is None)
        if checkpoint is not None:
            timm.models.load_checkpoint(model, str(checkpoint), weights_only=True)
    except Exception as error:  # downloads and files fail in many ways, all with the same remedy
        source = f"weights from {checkpoint}" if checkpoint is not None else f"pretrained weights of {backbone}"
        raise SelectionError(f"cannot load {source} ({error}); give local weights of this model") from error
    return model
