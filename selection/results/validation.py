"""How well a tuned model does on labelled images: overall, class by class, and how honest its probabilities are.

Indices: n image, c true class, d predicted class, b bin.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from selection.results.description import Measured
from task2vec.style import in_style

if TYPE_CHECKING:
    from matplotlib.figure import Figure

BINS = 10  # of the calibration


@dataclasses.dataclass(frozen=True)
class Validation:
    """What was found on labelled images of one label each.

    Attributes:
        class_names: In the order of rows and columns.
        confusion: int64 `(C, C)`: how many images of class c were taken for d.
        calibration_error: Expected calibration error (Guo et al. 2017, https://arxiv.org/abs/1706.04599): by how much
            the probability of the likeliest class and the share of right answers differ, over ten bins of it.
        unreadable: What was left out, a sentence each.
    """

    class_names: tuple[str, ...]
    confusion: npt.NDArray[np.int64]
    calibration_error: float
    unreadable: tuple[str, ...] = ()

    @classmethod
    def of(
        cls,
        probabilities: npt.NDArray[np.float32],
        labels: npt.NDArray[np.int64],
        class_names: tuple[str, ...],
        unreadable: tuple[str, ...] = (),
    ) -> Validation:
        """From probabilities `(N, C)` and labels `(N,)`."""
        confusion = np.zeros((len(class_names),) * 2, np.int64)
        np.add.at(confusion, (labels, probabilities.argmax(axis=1)), 1)
        return cls(class_names, confusion, calibration_error(probabilities, labels), unreadable)

    @property
    def measured(self) -> Measured:
        """The accuracy, with its interval, and the mean of the classes' recalls."""
        return Measured(
            float(np.trace(self.confusion) / self.confusion.sum()),
            int(self.confusion.sum()),
            {"mean_class_accuracy": float(np.nanmean(self.recall))},
        )

    @property
    def recall(self) -> npt.NDArray[np.float64]:
        """Share of each class's images that were found, `(C,)`; NaN without images."""
        return shares(np.diag(self.confusion), self.confusion.sum(axis=1))

    @property
    def precision(self) -> npt.NDArray[np.float64]:
        """Share of the images taken for each class that are of it, `(C,)`; NaN if none was taken for it."""
        return shares(np.diag(self.confusion), self.confusion.sum(axis=0))

    def __str__(self) -> str:
        return f"Accuracy: {self.measured}. Calibration error: {self.calibration_error:.3f}."

    def __repr__(self) -> str:
        return f"Validation({self.measured}, calibration error {self.calibration_error:.3f})"

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        measured = self.measured
        classes = [
            {"class": name, "images": int(row.sum()), "recall": plain(recall), "precision": plain(precision)}
            for name, row, recall, precision in zip(
                self.class_names, self.confusion, self.recall, self.precision, strict=True
            )
        ]
        return {
            "accuracy": measured.accuracy,
            "interval": None if measured.interval is None else list(measured.interval),
            "images": measured.num_images,
            "mean_class_accuracy": measured.others["mean_class_accuracy"],
            "calibration_error": self.calibration_error,
            "classes": classes,
            "confusion": self.confusion.tolist(),
            "unreadable": list(self.unreadable),
        }

    @in_style
    def plot(self) -> Figure:
        """The confusion matrix, as shares of the images of each class."""
        from matplotlib.figure import Figure

        count = len(self.class_names)
        side = min(20.0, 2.5 + 0.35 * count)
        figure = Figure(figsize=(side + 1, side), layout="constrained")
        axes = figure.subplots()
        shares = self.confusion / np.maximum(self.confusion.sum(axis=1, keepdims=True), 1)
        drawn = axes.imshow(shares, vmin=0, vmax=1)
        axes.grid(False)
        axes.set_xticks(range(count), self.class_names, rotation=90)
        axes.set_yticks(range(count), self.class_names)
        axes.set_xlabel("taken for")
        axes.set_ylabel("class")
        if count <= 20:
            for c, d in np.argwhere(self.confusion > 0):
                colour = "black" if shares[c, d] > 0.5 else "white"
                axes.text(d, c, str(self.confusion[c, d]), ha="center", va="center", color=colour, fontsize=8)
        figure.colorbar(drawn, label="share of the class's images")
        return figure


def calibration_error(probabilities: npt.NDArray[np.float32], labels: npt.NDArray[np.int64]) -> float:
    """sum_b n_b / N |right_b - confidence_b| over equally wide bins of the likeliest class's probability."""
    confidence = probabilities.max(axis=1).astype(np.float64)
    right = probabilities.argmax(axis=1) == labels
    number = np.minimum((confidence * BINS).astype(int), BINS - 1)
    gaps = np.bincount(number, weights=right.astype(float) - confidence, minlength=BINS)
    return float(np.abs(gaps).sum() / len(labels))


def shares(parts: npt.NDArray[np.int64], wholes: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    """Each part as a share of its whole; NaN of a whole that is nothing."""
    return np.where(wholes > 0, parts / np.maximum(wholes, 1), np.nan)


def plain(value: float) -> float | None:
    """JSON knows no NaN."""
    return None if np.isnan(value) else float(value)
