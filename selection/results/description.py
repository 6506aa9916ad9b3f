"""What a result folder says of itself, in `result.json`."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import timm
from scipy.stats import binomtest

from adapters.metrics import Metrics
from selection.errors import SelectionError
from selection.results.known_outputs import Outputs

FILE = "result.json"
FORMAT_VERSION = 1
CONFIDENCE = 0.95  # of the intervals of accuracies


@dataclasses.dataclass(frozen=True)
class Measured:
    """An accuracy with what it was measured on.

    Attributes:
        accuracy: Share of images classified correctly, in [0, 1]; where an image may be of several classes, share of
            all pairs of an image and a class.
        num_images: On how many.
        others: More shares, by name, such as `macro_f1`.
        num_labels: Pairs of an image and a class that each image stands for; 1 where it is of one class.
    """

    accuracy: float
    num_images: int
    others: Mapping[str, float] = dataclasses.field(default_factory=dict)
    num_labels: int = 1

    @classmethod
    def of(cls, metrics: Metrics, num_images: int, num_labels: int) -> Measured:
        """What was found on so many images that stand for so many labels each."""
        others = {name: value for name, value in vars(metrics).items() if name != "accuracy" and value is not None}
        return cls(metrics.accuracy, num_images, others, num_labels)

    @property
    def interval(self) -> tuple[float, float] | None:
        """Where the accuracy on ever more such images lies with a confidence of 95% (Wilson 1927); None where an image
        has several labels, which are not independent.
        """
        if self.num_labels > 1:
            return None
        right = round(self.accuracy * self.num_images)
        found = binomtest(right, self.num_images).proportion_ci(CONFIDENCE, method="wilson")
        return float(found.low), float(found.high)

    def __str__(self) -> str:
        if self.interval is None:
            return f"{self.accuracy:.1%} of all labels of {self.num_images} images"
        low, high = self.interval
        return f"{self.accuracy:.1%} of {self.num_images} images ({low:.1%} to {high:.1%})"


@dataclasses.dataclass(frozen=True)
class Description:
    """What a result is.

    Attributes:
        task: What was tuned on.
        class_names: What the outputs stand for, in their order.
        multi_label: Whether an image may be of several classes or none.
        backbone: timm's name with its tag, or the class of another module.
        backbone_fingerprint: Hash of the pretrained weights.
        config: The adapter's, as plain values.
        preprocessing: timm's data config: `input_size`, `mean`, `std`, `interpolation`, `crop_pct`, `crop_mode`.
        num_images: Of each split.
        validation: On images that watched over the training, and chose nothing unless there were several tries; None
            if there were none.
        test: On images that played no part; None if there were none.
        test_by_class: For each class on the test images `class`, `images`, `recall` and `precision`; empty if there
            were none, or an image has several labels.
        backbone_source: Where the pretrained weights are, such as `hf-hub:me/vit`, if not where timm has them.
        parameters: Trained ones beside the classifier's.
        seconds: Of training.
        num_tries: Trainings among which it was chosen by its validation accuracy.
        recommendation: Why this configuration, in plain values; empty if it was given by hand.
        outputs: What the model gives for two patterns (`selection.results.known_outputs`), to know it again; empty if
            nobody looked.
        versions: Of the packages that it was made with.
    """

    task: str
    class_names: tuple[str, ...]
    multi_label: bool
    backbone: str
    backbone_fingerprint: str
    config: Mapping[str, Any]
    preprocessing: Mapping[str, Any]
    num_images: Mapping[str, int]
    validation: Measured | None
    test: Measured | None
    parameters: int
    seconds: float
    test_by_class: tuple[Mapping[str, Any], ...] = ()
    backbone_source: str = ""
    num_tries: int = 1
    recommendation: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    outputs: Outputs = ()
    versions: Mapping[str, str] = dataclasses.field(default_factory=dict)

    @property
    def image_size(self) -> int | None:
        """Side of the images that the backbone was made to take; None where it would be of that size anyway."""
        architecture = self.backbone.split(".")[0]
        config = timm.get_pretrained_cfg(architecture) if timm.is_model(architecture) else None
        size = tuple(self.preprocessing["input_size"])
        is_usual = config is None or tuple(config.input_size[1:]) == size[1:] or size[1] != size[2]
        return None if is_usual else int(size[-1])

    def to_json(self) -> str:
        """What `read` reads."""
        return json.dumps({"format_version": FORMAT_VERSION} | dataclasses.asdict(self), indent=2) + "\n"

    @classmethod
    def read(cls, folder: Path) -> Description:
        """What a folder says of itself.

        Raises:
            SelectionError: there is no result, it is damaged, or it is of a newer version.
        """
        path = folder / FILE
        try:
            values = json.loads(path.read_text())
            version = values.pop("format_version")
            if version > FORMAT_VERSION:
                raise SelectionError(
                    f"{path} has format version {version}, this package reads {FORMAT_VERSION}; upgrade"
                )
            measured = {name: Measured(**own) for name in ("validation", "test") if (own := values[name]) is not None}
            plain = {"preprocessing": _tuples(values["preprocessing"]), "class_names": tuple(values["class_names"])}
            plain["test_by_class"] = tuple(values.get("test_by_class", ()))
            plain["outputs"] = tuple(map(tuple, values.get("outputs", ())))
            return cls(**values | measured | plain)
        except FileNotFoundError as error:
            raise SelectionError(f"there is no result in {folder}; give a folder that task2vec tune wrote") from error
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise SelectionError(f"{path} is no result's description ({error}); tune the task again") from error


def _tuples(values: Mapping[str, Any]) -> dict[str, Any]:
    """JSON knows lists only."""
    return {name: tuple(value) if isinstance(value, list) else value for name, value in values.items()}
