"""A trial: one configuration tuned on one task with one backbone, and how well it did."""

from __future__ import annotations

import dataclasses
import json
import math
import re
from collections.abc import Mapping
from numbers import Integral, Real
from typing import Any

from adapters import AdapterConfig, BackboneId, ConfigError

LARGEST = 2**63 - 1  # whole number that a database keeps
FINGERPRINT = re.compile(r"[0-9a-f]{32}|")  # or nothing, where the weights were not at hand


def config_of_version_0_1(values: Mapping[str, Any]) -> dict[str, Any]:
    """A config as version 0.1 wrote it, with what it did where there was no choice yet written out."""
    framed = {"resized": True} if values.get("method") == "pixel_prompt" else {}
    return {"batch_size": 64} | framed | dict(values)


@dataclasses.dataclass(frozen=True)
class Trial:
    """One finished fine-tuning.

    Attributes:
        config: What was tuned and how.
        backbone: What was tuned: its architecture and weights.
        score: Top-1 accuracy on images that played no part in the tuning, in [0, 1]; None if there were none.
        validation: Top-1 accuracy on the images that watched over the training, at the epoch that was kept.
        parameters: Trainable parameters beside the classifier's.
        seconds: Time it took to tune, on the machine that did it.
        seed: What fixed the order of the images and the initial weights.
        num_images: Training images.
        environment: Versions and machine that it ran with, if known.
        curve: For each epoch the validation accuracy and the seconds that it took; empty if not kept.

    Raises:
        ValueError: an accuracy is NaN or outside [0, 1], a time, a number of parameters or of images is impossible, a
            whole number is none that a database keeps, or a name is no text.
    """

    config: AdapterConfig
    backbone: BackboneId
    score: float | None
    validation: float
    parameters: int
    seconds: float
    seed: int
    num_images: int
    environment: str = ""
    curve: tuple[tuple[float, float], ...] = ()

    def __post_init__(self) -> None:
        """Refuse numbers that are no accuracies: NaN equals nothing, so that no store could find it again.

        Whole numbers may come as floats or numpy's, which JSON and databases would not give back as they are.
        """
        for name, value in (("score", self.score), ("validation", self.validation)):
            if value is not None and not _is_accuracy(value):
                raise ValueError(f"{name}={value} is not an accuracy in [0, 1]; a score that was not measured is None")
        if not _is_time(self.seconds):
            raise ValueError(f"seconds={self.seconds} is not a time; give how many seconds the tuning took")
        for name, least in (("parameters", 0), ("seed", 0), ("num_images", 1)):
            number = getattr(self, name)
            is_whole = isinstance(number, Integral) or (isinstance(number, float) and number.is_integer())
            if not (is_whole and least <= int(number) <= LARGEST):
                raise ValueError(f"{name}={number} must be a whole number from {least} to {LARGEST}")
            object.__setattr__(self, name, int(number))
        for epoch, point in enumerate(self.curve):
            if not is_point(point):
                raise ValueError(
                    f"curve has {point} for epoch {epoch}, which is not an accuracy in [0, 1] and the seconds it took"
                )
        if not FINGERPRINT.fullmatch(self.backbone.fingerprint):
            raise ValueError(f"{self.backbone.fingerprint[:100]!r} is no backbone's fingerprint")
        odd = next((text for text in (str(self.backbone), self.environment) if not text.isprintable()), None)
        if odd is not None:
            raise ValueError(f"{odd[:100]!r} is no backbone or environment")

    @property
    def key(self) -> tuple[object, ...]:
        """What tells it from the other trials of its task."""
        return self.config, self.backbone.fingerprint, self.seed, self.num_images

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        values = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return values | {
            "config": self.config.to_dict(),
            "backbone": str(self.backbone),
            "backbone_fingerprint": self.backbone.fingerprint,
            "curve": [list(point) for point in self.curve],
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Trial:
        """Read what `to_dict` gave.

        Raises:
            ValueError: a field is missing or unknown, or the config is none.
        """
        try:
            own = dict(values)
            backbone = BackboneId.of_name(own.pop("backbone"), own.pop("backbone_fingerprint"))
            config = AdapterConfig.from_dict(own["config"])
            curve = tuple((float(accuracy), float(seconds)) for accuracy, seconds in own.get("curve", ()))
            return cls(**own | {"config": config, "backbone": backbone, "curve": curve})
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


def _is_accuracy(value: object) -> bool:
    return isinstance(value, Real) and 0 <= float(value) <= 1


def _is_time(value: object) -> bool:
    return isinstance(value, Real) and 0 <= float(value) < math.inf


def is_point(value: Any) -> bool:
    """Whether it is an epoch of a curve."""
    try:
        accuracy, seconds = value
    except (TypeError, ValueError):
        return False
    return _is_accuracy(accuracy) and _is_time(seconds)
