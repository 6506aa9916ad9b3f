"""Which configuration to try next, in the light of the tries that ended and of those that run; and which to keep."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

import adapters
from adapters import AdapterConfig, BackboneId
from selection.errors import RecommendationError
from selection.evidence.validation_split import split_sizes
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
        ask: `recommend` with everything but `trials`, `running`, `failed` and `max_seconds`.
        clock: The time for all tries.
        most: How many tries at most; may be infinite.
        max_seconds: That a training may take, in seconds of this machine; None for any time.
        seed: Of the trainings.
        splits: The task.

    Attributes:
        clock: See above.
        most: See above.
        max_seconds: See above.
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
        self._ask, self.max_seconds = ask, max_seconds
        self.clock, self.most = clock, most
        self._seed, self._splits = seed, splits
        self._running: dict[int, tuple[Try, Recommendation]] = {}
        self._failed: list[AdapterConfig] = []
        self._finished: dict[int, tuple[Recommendation, float]] = {}  # with the validation accuracy
        self.trials: list[Trial] = []

    def first(self) -> Recommendation:
        """The recommendation without a time limit. Measuring its first steps tells how slow this machine is.

        Raises:
            RecommendationError: see `recommend`.
        """
        return self._recommended(None)

    def tries(self) -> Iterator[Try | None]:
        """Each try, chosen when it is asked for; None where there is none to make until one that runs has ended.

        The end comes when the time or the configurations are used up. One try is finished however little time there is;
        the others have to fit into what is left.

        Raises:
            RecommendationError: there is not even a first one.
        """
        number = 0
        while number < self.most:
            patient = self._needs_one_in_any_case
            recommendation = self._next(patient) if patient or self.clock.left > 0 else None
            if recommendation is None:
                if not self._running:
                    return
                ended = self._num_ended
                while self._num_ended == ended:
                    yield None
                continue
            number += 1
            best = max((accuracy for _, accuracy in self._finished.values()), default=None)
            deadline = None if patient or self.clock.left == float("inf") else time.time() + self.clock.left
            one = Try(number, recommendation.config, recommendation.warm_start, best, deadline)
            self._running[number] = one, recommendation
            yield one

    def _next(self, patient: bool) -> Recommendation | None:
        """What to try next; None where everything was tried, or nothing else fits into the time."""
        limit = self.clock.in_trials_seconds(self.max_seconds) if patient else self.clock.limit(self.max_seconds)
        try:
            return self._recommended(limit)
        except RecommendationError:
            if not self._running and not self.trials and not self._failed:
                raise
            return None

    def took(self, one: Try, tried: Tried) -> None:
        """A try ended."""
        _, recommendation = self._running.pop(one.number)
        self.trials.append(_trial_of(tried.tuned, one.config, self._seed, self._splits))
        if not tried.gave_up:
            self._finished[one.number] = timed(recommendation, self.clock.slowness), tried.tuned.fit.best.accuracy
        self.clock.learn(recommendation.candidate.seconds, tried.whole_seconds)

    def failed(self, one: Try) -> None:
        """A try ended with an error; it is not made again."""
        del self._running[one.number]
        self._failed.append(one.config)

    @property
    def has_finished(self) -> bool:
        """Whether a try was finished."""
        return bool(self._finished)

    def best(self) -> tuple[int, Recommendation]:
        """The number and the recommendation of the finished try that is expected to be the best, what was seen on all
        of them considered.
        """
        first = next(iter(self._finished.values()))[0]
        if len(self._finished) == 1:
            number = next(iter(self._finished))
        elif len(self.trials) + len(self._failed) >= len(first.ranking) or not first.is_calibrated:
            number = max(self._finished, key=lambda n: self._finished[n][1])
        else:
            expected = {candidate.config: candidate.predicted for candidate in self._recommended(None).ranking}
            number = max(self._finished, key=lambda n: expected[self._finished[n][0].config])
        return number, self._finished[number][0]

    @property
    def _needs_one_in_any_case(self) -> bool:
        return not self._finished and all(one.deadline is not None for one, _ in self._running.values())

    @property
    def _num_ended(self) -> int:
        return len(self.trials) + len(self._failed)

    def _recommended(self, limit: float | None) -> Recommendation:
        running = [one.config for one, _ in self._running.values()]
        return self._ask(trials=self.trials, running=running, failed=self._failed, max_seconds=limit)


def _trial_of(tuned: Tuned, config: AdapterConfig, seed: int, splits: Splits) -> Trial:
    return Trial(
        config=config,
        backbone=BackboneId.of_model(tuned.model),
        score=None if tuned.test is None else tuned.test.accuracy,
        validation=tuned.fit.best.accuracy,
        parameters=adapters.num_adapter_parameters(tuned.model),
        seconds=tuned.fit.seconds,
        seed=seed,
        num_images=split_sizes(splits)[0],
        curve=tuned.fit.curve,
    )
