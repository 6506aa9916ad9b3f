"""Which backbone an adapter or a trial belongs to."""

from __future__ import annotations

import dataclasses
import hashlib

import timm
import torch
from torch import nn

from adapters.adapter import plain
from adapters.sites import classifier_names

DEPENDENT_ON_IMAGE_SIZE = ("pos_embed", "relative_position_bias_table", "relative_position_index")
"""Weights that timm resamples for images of another size: the last parts of their names."""


@dataclasses.dataclass(frozen=True)
class BackboneId:
    """A backbone with its pretrained weights.

    Attributes:
        architecture: timm's name without a tag, such as `vit_tiny_patch16_224`; the class's name for other modules.
        tag: Which of the architecture's checkpoints, such as `augreg_in21k_ft_in1k`; empty if unknown.
        fingerprint: Hash of the weights; empty if they are not at hand.
    """

    architecture: str
    tag: str = ""
    fingerprint: str = ""

    @classmethod
    def of_name(cls, name: str, fingerprint: str = "") -> BackboneId:
        """What a name of timm stands for, with the tag that timm would load if the name has none."""
        architecture, _, tag = name.partition(".")
        if not tag and timm.is_model(architecture):
            config = timm.get_pretrained_cfg(architecture)
            tag = (config.tag if config is not None else None) or ""
        return cls(architecture, tag, fingerprint)

    @classmethod
    def of_model(cls, model: nn.Module) -> BackboneId:
        """A model with the weights that it has; adapters and its classifier do not count."""
        config = getattr(model, "pretrained_cfg", None) or {}
        architecture = str(config.get("architecture") or type(model).__name__)
        return cls(architecture, str(config.get("tag") or ""), backbone_fingerprint(model))

    def __str__(self) -> str:
        return f"{self.architecture}.{self.tag}" if self.tag else self.architecture

    def is_same(self, other: BackboneId) -> bool:
        """Whether both have the same weights: by their fingerprints where both are known, otherwise by the names."""
        if self.architecture != other.architecture:
            return False
        if self.fingerprint and other.fingerprint:
            return self.fingerprint == other.fingerprint
        return not (self.tag and other.tag) or self.tag == other.tag


def backbone_fingerprint(model: nn.Module) -> str:
    """Hash of the backbone's frozen weights: neither its classifier nor an attached adapter counts.

    What is resampled for another size of image does not count either, so that a checkpoint has one fingerprint at
    every size.
    """
    architecture = str((getattr(model, "pretrained_cfg", None) or {}).get("architecture") or type(model).__name__)
    outside = tuple(f"{name}." for name in (*classifier_names(model), "adapters"))
    digest = hashlib.sha256(architecture.encode())
    with plain(model):
        for name, tensor in model.state_dict().items():
            if not name.startswith(outside) and name.rpartition(".")[2] not in DEPENDENT_ON_IMAGE_SIZE:
                digest.update(f"{name}:{tuple(tensor.shape)};".encode())
                digest.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:32]
