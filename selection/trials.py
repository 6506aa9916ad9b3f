"""A trial: one configuration tuned on one task with one backbone, and how well it did."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from adapters import AdapterConfig


@dataclasses.dataclass(frozen=True)
class Trial:
    """One finished fine-tuning.

    Attributes:
        config: What was tuned and how.
        backbone: The backbone's name in timm.
        backbone_fingerprint: Hash of its weights.
        score: Top-1 accuracy on images that played no part in the tuning, in [0, 1].
        validation: Top-1 accuracy on the images that chose the epoch.
        parameters: Trainable parameters beside the classifier's.
        seconds: Time spent training.
        seed: What fixed the order of the images and the initial weights.
        num_images: Training images.
    """

    config: AdapterConfig
    backbone: str
    backbone_fingerprint: str
    score: float
    validation: float
    parameters: int
    seconds: float
    seed: int
    num_images: int

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return dataclasses.asdict(self) | {"config": self.config.to_dict()}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Trial:
        """Read what `to_dict` gave."""
        return cls(**dict(values) | {"config": AdapterConfig.from_dict(values["config"])})
