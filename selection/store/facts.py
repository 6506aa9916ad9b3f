"""What one pass of a task's images through a backbone says, as the store keeps it."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from adapters import BackboneId
from selection.store.trial import FINGERPRINT
from task2vec.log_sketch import SKETCH_SIZE

Array = npt.NDArray[np.float64]


@dataclasses.dataclass(frozen=True)
class BackboneFacts:
    """What is known of a task under the backbone that will be tuned.

    Attributes:
        backbone: Whose features these are.
        num_images: How many images were read.
        num_classes: How many classes they have.
        linear_probe: Accuracy of a linear classifier on the backbone's own features, of images that it was not fitted
            on: five folds.
        by_depth: The same after each third of the blocks, from the input to the output.
        in_place: Accuracy of a ridge regression on features after each third of the blocks, averaged over each ninth of
            the image instead of the whole, and at last of all of these together: each image left out in turn. It sees
            where things are, which the final features hide.
        logme: LogME of the backbone's own features: the evidence of a Bayesian linear model of the labels, an image.
        h_score: How much of the features' spread lies between the classes.
        fisher: The mass of the backbone's Fisher in each of its layers by their names, from input to output
            (`task2vec.Sensitivity.mass`); empty where it was not measured.
        image_size: `(channels, height, width)` as the backbone took the images, by which the Fisher differs; None where
            that is not known.
        sketch: `(SKETCH_SIZE,)`, of the logarithms of that Fisher filter by filter (`task2vec.log_sketch`): the task's
            embedding under the backbone itself, in a few thousand bytes; empty where it was not measured.
    """

    backbone: BackboneId
    num_images: int
    num_classes: int
    linear_probe: float
    by_depth: tuple[float, ...]
    in_place: tuple[float, ...]
    logme: float
    h_score: float
    fisher: Mapping[str, float] = dataclasses.field(default_factory=dict)
    image_size: tuple[int, int, int] | None = None
    sketch: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        shares = (self.linear_probe, *self.by_depth, *self.in_place)
        if not (self.by_depth and self.in_place and all(0 <= share <= 1 for share in shares)):
            raise ValueError("not the facts of a task: an accuracy is missing, or not between 0 and 1")
        if not (self.num_images > 0 and self.num_classes > 0):
            raise ValueError("not the facts of a task: it has no images, or no classes")
        if not all(math.isfinite(value) for value in (self.logme, self.h_score, *self.fisher.values(), *self.sketch)):
            raise ValueError("not the facts of a task: a number is infinite or NaN")
        if not all(mass >= 0 for mass in self.fisher.values()):
            raise ValueError("not the facts of a task: the Fisher of a layer is negative")
        if len(self.sketch) not in (0, SKETCH_SIZE):
            raise ValueError(f"not the facts of a task: a sketch of {len(self.sketch)} numbers, and not {SKETCH_SIZE}")
        if not FINGERPRINT.fullmatch(self.backbone.fingerprint):
            raise ValueError(f"{self.backbone.fingerprint[:100]!r} is no backbone's fingerprint")

    def compares_with(self, other: BackboneFacts) -> bool:
        """Whether the Fisher of both was measured in the same layers of one backbone and on images of one size."""
        same_layers = bool(self.fisher) and list(self.fisher) == list(other.fisher)
        same_size = self.image_size is not None and self.image_size == other.image_size
        return same_layers and same_size and self.backbone.is_same(other.backbone)

    def without_fisher(self) -> BackboneFacts:
        """The same as if nobody had measured it."""
        return dataclasses.replace(self, fisher={}, sketch=())

    @property
    def numbers(self) -> Array:
        """For recommenders, each about 1 large: the probe's accuracy; by how much the best of all probes exceeds it,
        and by how much the one of all depths in place does; logarithms of classes and images, `(5,)`.
        """
        best = max(self.linear_probe, *self.by_depth, *self.in_place)
        gains = [(best - self.linear_probe) / 0.15, (self.in_place[-1] - self.linear_probe) / 0.2]
        counts = [np.log(self.num_classes / 8), np.log(self.num_images / 300)]
        return np.array([self.linear_probe / 0.25, *gains, *counts])

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        values = {name: list(v) if isinstance(v, tuple) else v for name, v in vars(self).items()}
        return values | {"backbone": str(self.backbone), "backbone_fingerprint": self.backbone.fingerprint}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> BackboneFacts:
        """Read what `to_dict` gave.

        Raises:
            ValueError: a field is missing or unknown, or a value is none of its kind.
        """
        own = dict(values)
        try:
            backbone = BackboneId.of_name(own.pop("backbone"), own.pop("backbone_fingerprint"))
            own |= {name: tuple(values) for name, values in own.items() if isinstance(values, list)}
            return cls(backbone=backbone, **own)
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"not the facts of a task: {error}") from error
