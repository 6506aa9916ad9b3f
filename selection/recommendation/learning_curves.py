"""Where a training will end, from its first epochs and the learning curves of stored trials.

Indices: n stored curve, e epoch of E.

At a share u = e / E of the schedule, stored trials with validation accuracies v_n(u) ended at v_n(1). A straight line
through them,

    v(1) = a_u + b_u v(u) + error of variance s_u^2,

is fitted by least squares for each share. It needs no form of curve, and the cosine schedule, which makes the last
epochs the steepest ones for some methods, is in it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence

import numpy as np
import numpy.typing as npt

from adapters import BackboneId
from selection.store import TaskFilter, TaskStore

Array = npt.NDArray[np.float64]

SHARES = np.linspace(0.1, 1.0, 10)
FEWEST = 8  # curves that a line is trusted with


@dataclasses.dataclass(frozen=True)
class LearningCurves:
    """Lines from what is seen at some share of a training to its end.

    Attributes:
        offsets: float64 `(S,)`, a at each of `SHARES`.
        slopes: float64 `(S,)`, b.
        variances: float64 `(S,)`, s^2.
    """

    offsets: Array
    slopes: Array
    variances: Array

    @classmethod
    def fit(cls, curves: Iterable[Sequence[float]]) -> LearningCurves | None:
        """From validation accuracies by epoch; None if there are too few curves."""
        whole = [np.asarray(curve, np.float64) for curve in curves if len(curve) > 1]
        if len(whole) < FEWEST:
            return None
        end = np.array([curve[-1] for curve in whole])
        lines = []
        for share in SHARES:
            seen = np.array([_at(curve, share) for curve in whole])
            slope, offset = np.polyfit(seen, end, 1) if np.ptp(seen) > 0 else (0.0, float(end.mean()))
            lines.append((offset, slope, float(np.mean((end - offset - slope * seen) ** 2)) + 1e-6))
        offsets, slopes, variances = np.array(lines).T
        return cls(offsets, slopes, variances)

    def end(self, seen: Sequence[float], share: float) -> tuple[float, float]:
        """Expected last validation accuracy of a training, and the variance of that.

        Args:
            seen: Validation accuracies of its last epochs so far, at least one.
            share: Of all epochs, how many are over.
        """
        offset, slope, variance = (
            float(np.interp(share, SHARES, values)) for values in (self.offsets, self.slopes, self.variances)
        )
        return offset + slope * _smoothed(seen), variance


def curves_of(store: TaskStore, backbone: BackboneId) -> LearningCurves | None:
    """From the trials on a backbone that a store has with their curves."""
    tasks = store.tasks(TaskFilter(trials_on=backbone.architecture))
    own = (trial for task in tasks for trial in task.trials if trial.backbone.is_same(backbone))
    return LearningCurves.fit([accuracy for accuracy, _ in trial.curve] for trial in own)


def _at(curve: Array, share: float) -> float:
    """What was seen when that share of the epochs was over."""
    return _smoothed(curve[: max(1, round(share * len(curve)))])


def _smoothed(seen: Sequence[float] | Array) -> float:
    """The mean of the last two epochs: one epoch's accuracy on a few validation images is noisy."""
    return float(np.mean(np.asarray(seen)[-2:]))
