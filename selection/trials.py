"""A trial: one configuration tuned on one task with one backbone, and how well it did."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from typing import Any

from adapters import AdapterConfig, ConfigError


@dataclasses.dataclass(frozen=True)
class Trial:
    """One finished fine-tuning.

    Attributes:
        config: What was tuned and how.
        backbone: The backbone's name in timm.
        backbone_fingerprint: Hash of its weights.
        score: Top-1 accuracy on images that played no part in the tuning, in [0, 1]; NaN if there were none.
        validation: Top-1 accuracy on the images that chose the epoch.
        parameters: Trainable parameters beside the classifier's.
        seconds: Time it took to tune, on the machine that did it.
        seed: What fixed the order of the images and the initial weights.
        num_images: Training images.
        environment: Versions and machine that it ran with, if known.
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
    environment: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return dataclasses.asdict(self) | {"config": self.config.to_dict()}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Trial:
        """Read what `to_dict` gave.

        Raises:
            ValueError: a field is missing or unknown, or the config is none.
        """
        try:
            return cls(**dict(values) | {"config": AdapterConfig.from_dict(values["config"])})
        except (ConfigError, KeyError, TypeError) as error:
            raise ValueError(f"not a trial: {error}") from error

    def to_line(self, task: str) -> str:
        """One line of JSON with the task's name."""
        return json.dumps({"task": task} | self.to_dict()) + "\n"

    @classmethod
    def from_line(cls, line: str) -> tuple[str, Trial]:
        """The task's name (empty if the line has none) and the trial, from what `to_line` gave."""
        values = json.loads(line)
        return values.pop("task", ""), cls.from_dict(values)
