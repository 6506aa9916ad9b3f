"""Which backbone an adapter belongs to."""

from __future__ import annotations

import hashlib

import torch
from torch import nn

from adapters.adapter import plain
from adapters.sites import classifier_names


def backbone_name(model: nn.Module) -> str:
    """Timm's name for the architecture, the class's name for other modules."""
    config = getattr(model, "pretrained_cfg", None) or {}
    return str(config.get("architecture") or type(model).__name__)


def backbone_fingerprint(model: nn.Module) -> str:
    """Hash of the backbone's frozen weights: neither its classifier nor an attached adapter counts."""
    outside = tuple(f"{name}." for name in (*classifier_names(model), "adapters"))
    digest = hashlib.sha256(backbone_name(model).encode())
    with plain(model):
        for name, tensor in model.state_dict().items():
            if not name.startswith(outside):
                digest.update(f"{name}:{tuple(tensor.shape)};".encode())
                digest.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:32]
