"""A budget of seconds: how much is left, what still fits into it, and which training to give up."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

from torch import nn

from adapters import AdapterConfig, StopTraining
from selection.recommendation.learning_curves import LearningCurves
from selection.recommendation.stopping import promises_nothing


class Clock:
    """The time that is left, and how fast this machine is beside the one that made the stored trials.

    Args:
        seconds: To spend from now on; None for any time.
        now: What tells the time, in seconds.
    """

    def __init__(self, seconds: float | None, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        self._end = float("inf") if seconds is None else now() + seconds
        self.slowness = 1.0

    @property
    def left(self) -> float:
        """Seconds."""
        return self._end - self._now()

    def limit(self, max_seconds: float | None) -> float | None:
        """What `recommend` may expect a training to take at most, in seconds of the machine that made the trials.

        Args:
            max_seconds: A limit of its own for each training, in seconds of this machine.
        """
        left, most = self.in_trials_seconds(max(self.left, 0.0)), self.in_trials_seconds(max_seconds)
        if left is None or left == float("inf"):
            return most
        return left if most is None else min(left, most)

    def in_trials_seconds(self, seconds: float | None) -> float | None:
        """Seconds of this machine as seconds of the machine that made the trials; None stays None."""
        return None if seconds is None else seconds / self.slowness

    def learn(self, expected: float, taken: float) -> None:
        """A training was expected to take so long, and took so long."""
        if expected > 0 and taken > 0:
            self.slowness = taken / expected


class Watch:
    """Looks at every epoch of a training, and ends it where going on is not worth the time.

    Args:
        curves: What stored trials say of where trainings end; without them only the time counts.
        config: What is trained.
        best: Last validation accuracy of the best finished training; None if there is none.
        clock: The time left; None where the training is to be finished whatever it takes.

    Attributes:
        gave_up: Whether it ended the training.
        whole_seconds: What the whole training would take, by the epochs seen; 0 before the first.
    """

    def __init__(
        self, curves: LearningCurves | None, config: AdapterConfig, best: float | None, clock: Clock | None
    ) -> None:
        self._curves, self._best, self._clock = curves, best, clock
        self._epochs = config.epochs
        self._seen: list[float] = []
        self._seconds = 0.0
        self.gave_up = False

    @property
    def whole_seconds(self) -> float:
        """What the whole training would take, by the epochs seen; 0 before the first."""
        return self._epochs * self._seconds / len(self._seen) if self._seen else 0.0

    def __call__(self, model: nn.Module, record: Mapping[str, float]) -> None:
        """Take an epoch's record.

        Raises:
            StopTraining: going on is not worth the time.
        """
        self._seen.append(record["accuracy"])
        self._seconds += record["seconds"]
        over = int(record["epoch"])  # a training that was resumed shows its later epochs only
        if over >= self._epochs:
            return
        hopeless = (
            self._curves is not None
            and self._best is not None
            and promises_nothing(self._curves, self._seen, over / self._epochs, self._best)
        )
        late = self._clock is not None and (1 - over / self._epochs) * self.whole_seconds > self._clock.left
        if hopeless or late:
            self.gave_up = True
            raise StopTraining
