"""Which configuration to try next, in the light of the tries that ended and of those that run; and which to keep."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import adapters
from adapters import AdapterConfig, BackboneId
from selection.errors import RecommendationError
from selection.evidence.runner import VALIDATION_SHARE
from selection.recommendation.pace import timed
from selection.recommendation.result import Recommendation
from selection.store import Trial
from selection.tuning.budget import Clock
from selection.tuning.one import Tuned
from selection.tuning.tries import Tried, Try
from task2vec import Splits


class Search:
    """The tries on one task. Ask for the next one as soon as there is room for it, and tell what became of it.

    Args:
        ask: `recommend` with everything but `trials`, `running` and `max_seconds`.
        clock: The time for all tries.
        most: How many tries at most; may be infinite.
        max_seconds: That a training may take, in seconds of this machine; None for any time.
        seed: Of the trainings.
        splits: The task.

    Attributes:
        clock: See above.
        most: See above.
        trials: What was seen, in the order in which it ended.
    """

    def __init__(
        self,
        ask: Callable[..., Recommendation],
        clock: Clock,
        most: float,
        max_seconds: float | None,
        *,
        seed: int,
        splits: Splits,
    ) -> None:
        self._ask, self._max_seconds = ask, max_seconds
        self.clock, self.most = clock, most
        self._seed, self._splits = seed, splits
        self._running: dict[int, Recommendation] = {}
        self._failed: list[AdapterConfig] = []
        self._finished: list[tuple[Recommendation, Tuned]] = []
        self.trials: list[Trial] = []

    def first(self) -> Recommendation:
        """What is recommended at any length; how long it takes here shows how fast this machine is.

        Raises:
            RecommendationError: see `recommend`.
        """
        return self._recommended(None)

    def tries(self) -> Iterator[Try]:
        """Each try, chosen when it is asked for; the end comes when the time or the configurations are used up.

        The first try is finished however little time there is; each later one has to fit into what is left.

        Raises:
            RecommendationError: there is not even a first one.
        """
        number, limit = 0, self.clock.in_trials_seconds(self._max_seconds)
        while number < self.most and (number == 0 or self.clock.left > 0):
            try:
                recommendation = self._recommended(limit)
            except RecommendationError:
                if number == 0:
                    raise
                return
            number += 1
            self._running[number] = recommendation
            best = max((tuned.fit.best.accuracy for _, tuned in self._finished), default=None)
            left = None if number == 1 else self.clock.left
            yield Try(number, recommendation.config, recommendation.warm_start, best, left)
            limit = self.clock.limit(self._max_seconds)

    def took(self, one: Try, tried: Tried) -> None:
        """A try ended."""
        recommendation = self._running.pop(one.number)
        self.trials.append(_trial_of(tried.tuned, one.config, self._seed, self._splits))
        if not tried.gave_up:
            self._finished.append((timed(recommendation, self.clock.slowness), tried.tuned))
        self.clock.learn(recommendation.candidate.seconds, tried.whole_seconds)

    def failed(self, one: Try) -> None:
        """A try ended with an error; it is not made again."""
        self._failed.append(self._running.pop(one.number).config)

    @property
    def best(self) -> tuple[Recommendation, Tuned]:
        """Of the finished tries the one that is expected to be the best, what was seen on all of them considered."""
        first = self._finished[0][0]
        if len(self._finished) == 1:
            return self._finished[0]
        if len(self.trials) + len(self._failed) >= len(first.ranking) or not first.is_calibrated:
            return max(self._finished, key=lambda pair: pair[1].fit.best.accuracy)
        expected = {candidate.config: candidate.predicted for candidate in self._recommended(None).ranking}
        return max(self._finished, key=lambda pair: expected[pair[0].config])

    def _recommended(self, limit: float | None) -> Recommendation:
        running = [*(recommendation.config for recommendation in self._running.values()), *self._failed]
        return self._ask(trials=self.trials, running=running, max_seconds=limit)


def _trial_of(tuned: Tuned, config: AdapterConfig, seed: int, splits: Splits) -> Trial:
    share = 1 - VALIDATION_SHARE if splits.validation is None else 1.0
    return Trial(
        config=config,
        backbone=BackboneId.of_model(tuned.model),
        score=None if tuned.test is None else tuned.test.accuracy,
        validation=tuned.fit.best.accuracy,
        parameters=adapters.num_adapter_parameters(tuned.model),
        seconds=tuned.fit.seconds,
        seed=seed,
        num_images=round(share * len(splits.train)),
        curve=tuned.fit.curve,
    )
