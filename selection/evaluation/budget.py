"""I have an hour: what can be found within a budget of seconds, by replaying stored learning curves.

A search starts, goes on with and abandons trainings of a target's configurations. The stored curve of each says what it
would have seen after every epoch and how long that would have taken, so that searches are compared on the same targets
and budgets without training again. What counts in the end is the test accuracy of the configuration that a search
names among those it trained to their end.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from contextlib import suppress

import numpy as np

from selection.evaluation.protocol import Target
from selection.recommendation.learning_curves import LearningCurves
from selection.recommendation.observed import validation_variance
from selection.recommendation.prediction import Prediction
from selection.recommendation.stopping import promises_nothing


class OutOfTimeError(Exception):
    """The budget is spent."""


@dataclasses.dataclass
class Replay:
    """Trainings on a target that were stored, as if they ran now.

    Attributes:
        target: With its stored trials.
        budget: Seconds that may be spent.
        spent: Seconds so far.
        epochs: For each configuration how many epochs were trained.
    """

    target: Target
    budget: float
    spent: float = 0.0
    epochs: dict[int, int] = dataclasses.field(default_factory=dict)

    def length(self, number: int) -> int:
        """Epochs of a configuration's whole training."""
        return len(self.target.trials[number].curve)

    def train(self, number: int, epochs: int) -> tuple[float, ...]:
        """Train a configuration until so many epochs are done; gives the validation accuracies so far.

        Raises:
            OutOfTimeError: the budget ends before that; the epochs that fit were trained.
        """
        curve = self.target.trials[number].curve
        for epoch in range(self.epochs.get(number, 0), min(epochs, len(curve))):
            seconds = curve[epoch][1]
            if self.spent + seconds > self.budget:
                raise OutOfTimeError
            self.spent += seconds
            self.epochs[number] = epoch + 1
        return tuple(accuracy for accuracy, _ in curve[: self.epochs.get(number, 0)])

    def finished(self) -> dict[int, float]:
        """Last validation accuracy of each configuration that was trained to its end."""
        return {n: self.target.trials[n].curve[-1][0] for n, e in self.epochs.items() if e == self.length(n)}

    def answer(self) -> int | None:
        """The configuration that a search ends with: the best finished one; None if none was finished."""
        finished = self.finished()
        return max(finished, key=lambda number: finished[number]) if finished else None


Search = Callable[[Replay], int | None]
"""Spends a replay's budget, and names the configuration that it would keep."""


def until_spent(search: Callable[[Replay], None], replay: Replay) -> int | None:
    """Let a search run until it ends or the budget does."""
    with suppress(OutOfTimeError):
        search(replay)
    return replay.answer()


def in_order(order: list[int]) -> Search:
    """Whole trainings, one after the other."""

    def search(replay: Replay) -> None:
        for number in order:
            replay.train(number, replay.length(number))

    return lambda replay: until_spent(search, replay)


def at_random(seed: int) -> Search:
    """Whole trainings in a random order."""
    return lambda replay: in_order(np.random.default_rng(seed).permutation(len(replay.target.trials)).tolist())(replay)


def successive_halving(order: list[int] | None, seed: int, factor: int = 3) -> Search:
    """ASHA (Li et al. 2020, https://arxiv.org/abs/1810.05934) with one worker, at rungs of 1/9, 1/3 and all epochs.

    Args:
        order: In which configurations are started; a random one if not given.
        seed: Of that.
        factor: One in so many goes on from a rung to the next.
    """
    rungs = (1 / factor**2, 1 / factor, 1.0)

    def search(replay: Replay) -> None:
        drawn = np.random.default_rng(seed).permutation(len(replay.target.trials)).tolist()
        waiting = list(order if order is not None else drawn)
        reached: list[dict[int, float]] = [{} for _ in rungs]

        def train_to(number: int, rung: int) -> None:
            seen = replay.train(number, max(1, round(rungs[rung] * replay.length(number))))
            reached[rung][number] = seen[-1]

        while True:
            for rung in reversed(range(len(rungs) - 1)):
                best = sorted(reached[rung], key=lambda n: -reached[rung][n])[: len(reached[rung]) // factor]
                promoted = [number for number in best if number not in reached[rung + 1]]
                if promoted:
                    train_to(promoted[0], rung + 1)
                    break
            else:
                if not waiting:
                    for rung in reversed(range(len(rungs) - 1)):  # nothing left to start: finish the best ones
                        for number in sorted(reached[rung], key=lambda n: -reached[rung][n]):
                            if number not in reached[rung + 1]:
                                train_to(number, rung + 1)
                    return
                train_to(waiting.pop(0), 0)

    return lambda replay: until_spent(search, replay)


def by_model(prediction: Prediction, curves: LearningCurves | None) -> Search:
    """What `auto_tune(seconds=)` does: the largest expected improvement a second, stopped where nothing is promised.

    Args:
        prediction: What is expected of the configurations before any try.
        curves: Of stored trials; without them nothing is stopped early.
    """

    def search(replay: Replay) -> None:
        left = set(range(len(replay.target.trials)))
        seen: list[tuple[int, float, float]] = []
        seconds = replay.target.costs  # what its own trainings take, nobody knows before
        while left:
            number = prediction.next_try(seen, seconds)
            left.discard(number)
            best = max(replay.finished().values(), default=None)
            length = replay.length(number)
            for epoch in range(1, length + 1):
                accuracies = replay.train(number, epoch)
                if best is not None and curves and promises_nothing(curves, accuracies, epoch / length, best):
                    break
            accuracy, variance = accuracies[-1], 0.0
            if len(accuracies) < length:
                assert curves is not None
                accuracy, variance = curves.end(accuracies, len(accuracies) / length)
            own = validation_variance(min(max(accuracy, 0.0), 1.0), replay.target.num_validation)
            seen.append((number, accuracy, own + variance))

    def whole(replay: Replay) -> int | None:
        until_spent(search, replay)
        finished = replay.finished()
        if not finished:
            return None
        seen = [(n, a, validation_variance(a, replay.target.num_validation)) for n, a in finished.items()]
        after = prediction.given(seen)
        return max(finished, key=lambda number: after.mean[number])

    return whole
