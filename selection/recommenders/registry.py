"""The contract of the recommenders and the register that they enter themselves into.

Indices: t stored task, c configuration.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt
from scipy.stats import norm

from adapters import AdapterConfig
from task2vec import TaskEmbedding
from task2vec_registry import Registry

Array = npt.NDArray[np.float64]

# Of the variance of a validation accuracy, by the trials of the shipped library: what differs between configurations
# that were validated on the same images, and what they share (the choice of the best epoch, which flatters, included).
OWN_ERROR, SHARED_ERROR = 0.3, 1.0


@dataclasses.dataclass(frozen=True)
class TaskFacts:
    """What is known of a task before anything is tuned on it.

    Attributes:
        name: What it is called.
        embedding: Its Task2Vec embedding, with the number of images and classes and the probe's own accuracy.
        source: What its images were taken from; tasks of one source are not independent.
    """

    name: str
    embedding: TaskEmbedding
    source: str = ""

    @property
    def numbers(self) -> Array:
        """Size, classes, images a class, the linear probe's accuracy and the Fisher's size: `(5,)`, about 1 large."""
        images, classes = self.embedding.num_samples, max(2, len(self.embedding.classes))
        accuracy = self.embedding.classifier.accuracy
        size = np.log(max(self.embedding.norm, 1e-12))
        return np.array(
            [np.log(images / 300), np.log(classes / 8), np.log(images / classes / 40), 4 * accuracy - 3, size]
        )


@dataclasses.dataclass(frozen=True)
class TrialTable:
    """What was tuned on stored tasks, and how it went.

    Attributes:
        tasks: T of them.
        configs: C of them.
        scores: float64 `(T, C)`, mean test accuracy in [0, 1] over the trials; NaN where there is none.
        parameters: int64 `(C,)`, trainable ones beside the classifier's.
        seconds: float64 `(C,)`, of training for each training image.
    """

    tasks: tuple[TaskFacts, ...]
    configs: tuple[AdapterConfig, ...]
    scores: Array
    parameters: npt.NDArray[np.int64]
    seconds: Array

    def without(self, sources: Sequence[str]) -> TrialTable:
        """What was tuned on tasks of other sources."""
        kept = [i for i, task in enumerate(self.tasks) if task.source not in sources]
        return dataclasses.replace(self, tasks=tuple(self.tasks[i] for i in kept), scores=self.scores[kept])

    def of_configs(self, kept: Sequence[int]) -> TrialTable:
        """Some of the configurations only."""
        columns = list(kept)
        return TrialTable(
            self.tasks,
            tuple(self.configs[c] for c in columns),
            self.scores[:, columns],
            self.parameters[columns],
            self.seconds[columns],
        )

    def gains(self) -> Array:
        """`(T, C)`: by how much each score exceeds what its configurations' and its task's own level would give.

        A task's level is the mean of its scores, corrected for which configurations it tried: the least squares fit of
        `score = level_t + gain_c`, so that a task that tried only good configurations does not look easy.
        """
        return self.scores - self.levels()[:, None]

    def levels(self) -> Array:
        """`(T,)`: each task's score on an average configuration."""
        tried = np.isfinite(self.scores)
        scores = np.where(tried, self.scores, 0.0)
        level, gain = np.zeros(len(self.tasks)), np.zeros(len(self.configs))
        for _ in range(50):  # alternating least squares; converges fast as most tasks share most configurations
            level = (scores - gain * tried).sum(axis=1) / np.maximum(tried.sum(axis=1), 1)
            gain = (scores - level[:, None] * tried).sum(axis=0) / np.maximum(tried.sum(axis=0), 1)
            gain -= gain.mean() if len(gain) else 0.0
        return level


@dataclasses.dataclass(frozen=True)
class Prediction:
    """What is expected of candidates.

    Attributes:
        mean: float64 `(C,)`, expected test accuracy; of recommenders without a model, any numbers in the right order.
        covariance: float64 `(C, C)`, how uncertain the accuracies are together; None without a model.
        noise: Variance of a trial around its accuracy: another seed would score differently.
    """

    mean: Array
    covariance: Array | None = None
    noise: float = 0.0

    @property
    def std(self) -> Array:
        """Standard deviation `(C,)` of what a trial would score; NaN without a model."""
        if self.covariance is None:
            return np.full(len(self.mean), np.nan)
        return np.asarray(np.sqrt(np.maximum(np.diag(self.covariance), 0) + self.noise))

    def given(self, seen: Sequence[tuple[int, float, float]]) -> Prediction:
        """The same after some candidates were tried: their numbers, validation scores, and the variances of these.

        All are scored on the same validation images, so most of an error is common to them and says nothing about
        which is better.
        """
        if not seen or self.covariance is None:
            return self
        tried = [number for number, _, _ in seen]
        scores = np.array([score for _, score, _ in seen])
        errors = np.sqrt([variance for _, _, variance in seen])
        noise = SHARED_ERROR * np.outer(errors, errors) + np.diag(OWN_ERROR * errors**2 + self.noise)
        across = self.covariance[:, tried]
        weights = np.linalg.solve(self.covariance[np.ix_(tried, tried)] + noise, across.T).T
        mean = self.mean + weights @ (scores - self.mean[tried])
        return Prediction(mean, self.covariance - weights @ across.T, self.noise)

    def choice(self, seen: Sequence[tuple[int, float, float]] = ()) -> int:
        """The candidate to tune: the largest expectation; without a model, the best one seen."""
        if seen and self.covariance is None:
            return max(seen, key=lambda trial: trial[1])[0]
        return int(np.argmax(self.given(seen).mean))

    def next_try(self, seen: Sequence[tuple[int, float, float]] = ()) -> int:
        """The candidate to try next: the largest expected improvement over the best so far (Jones et al. 1998,
        equation 15); without a model, or with nothing seen, the next in order.

        Raises:
            ValueError: all were tried.
        """
        tried = {number for number, _, _ in seen}
        left = [number for number in range(len(self.mean)) if number not in tried]
        if not left:
            raise ValueError("every candidate was tried")
        after = self.given(seen)
        if after.covariance is None or not seen:
            return max(left, key=lambda number: after.mean[number])
        best = max(after.mean[number] for number in tried)
        spread = np.sqrt(np.maximum(np.diag(after.covariance), 1e-12))
        z = (after.mean - best) / spread
        improvement = spread * (z * norm.cdf(z) + norm.pdf(z))
        return max(left, key=lambda number: improvement[number])


Recommender = Callable[[TrialTable, TaskFacts, Sequence[AdapterConfig]], Prediction]
"""From what was tuned on stored tasks, a target and candidates to what is expected of the candidates."""

RECOMMENDERS: Registry[Recommender] = Registry("recommender", "task2vec.recommenders")


def register_recommender(name: str) -> Callable[[Recommender], Recommender]:
    """Enter a recommender under `name`.

    Raises:
        ValueError: the name is taken.
    """
    return RECOMMENDERS.register(name)
