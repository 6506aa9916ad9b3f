"""A Gaussian process over tasks and configurations at once.

Indices: t task, c configuration.

    score_tc = level(t) + gain(size of t, c) + interaction(t, c) + noise

Each term is a Gaussian process: the level over the tasks' facts, over their embeddings, and by itself for each task;
the gain over the configurations and the number of training images; the interaction over embeddings and configurations,
its kernel a product, so that what worked on a task is expected to work on tasks near it, for the same configuration and
for similar ones. The kernel of the embeddings is exp(-log_cosine(t, t') / l^2): a Gaussian of the unit vectors whose
cosine log_cosine is.

Only the amount of each term is learned, by maximising the marginal likelihood (scikit-learn's
`GaussianProcessRegressor`). The lengths are fixed to what makes inputs of ordinary difference half alike: with some
dozen independent sources, learned lengths follow the noise. The amounts for the shipped library are shipped with it, so
that a recommendation takes a fraction of a second.
"""

from __future__ import annotations

import dataclasses
import json
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from scipy.spatial.distance import cdist
from scipy.stats import norm
from sklearn.exceptions import ConvergenceWarning
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import WhiteKernel

from adapters import AdapterConfig
from selection.recommenders.features import config_numbers, task_directions
from selection.recommenders.mixture import Mixture
from selection.recommenders.registry import Array, Prediction, TaskFacts, TrialTable, register_recommender

SHIPPED = Path(__file__).with_name("gaussian_process.json")
ROWS = 500  # observations that amounts are learned from: the likelihood takes the cube of their number
METHOD_LENGTH, NUMBER_LENGTH, SIZE_LENGTH, FACT_LENGTH, EMBEDDING_LENGTH = 1.0, 1.5, 1.0, 2.0, 0.8
START = {
    "level by facts": 0.05,
    "level by embedding": 0.02,
    "level of each task": 0.005,
    "gain by size": 0.0005,
    "interaction by embedding": 0.0005,
    "interaction by facts": 0.0005,
}
"""The terms, and the variances that learning starts from."""

TERMS = tuple(START)[:-1]
"""Those of the recommender: interactions by facts do not carry over to other sources (docs/evaluation.md)."""

AMOUNTS = (1e-7, 1e1)
NOISE = 5e-4
LEAST_NOISE, MOST_NOISE = 1e-4, 1e-2  # the least is the variance of an accuracy of 0.9 on a thousand test images

Directions = Callable[[Sequence[TaskFacts]], Array]
Wanted = tuple[TaskFacts, Sequence[AdapterConfig]]
"""A target and its candidates."""


@dataclasses.dataclass(frozen=True)
class GaussianProcess:
    """The recommender with given amounts.

    Attributes:
        amounts: Variance of each of the terms.
        noise: Variance of a trial around its accuracy.
        directions: What stands for the tasks' embeddings, `(T, any)`; others than the embeddings are for ablations.
        terms: Which of `START`.
        widening: What standard deviations are multiplied by. A likelihood knows nothing of how far a new source may
            lie from all others, nor that the choice is the luckiest of many; `calibrated` does.
    """

    amounts: tuple[float, ...]
    noise: float
    directions: Directions = task_directions
    terms: tuple[str, ...] = TERMS
    widening: float = 1.0

    @classmethod
    def learn(
        cls,
        table: TrialTable,
        directions: Directions = task_directions,
        terms: tuple[str, ...] = TERMS,
        seed: int = 0,
    ) -> GaussianProcess:
        """The amounts that make the table likeliest, from `ROWS` of its scores."""
        pairs, scores = _observations(table)
        chosen = np.random.default_rng(seed).permutation(len(scores))[:ROWS]
        mixture = _mixture(terms, [START[term] for term in terms], table.tasks, table.configs, directions)
        kernel = mixture + WhiteKernel(NOISE, (LEAST_NOISE, MOST_NOISE))
        process = GaussianProcessRegressor(kernel, random_state=seed)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)  # an amount may run to its bound: there is no such term
            process.fit(pairs[chosen], scores[chosen] - scores.mean())
        *amounts, noise = np.exp(process.kernel_.theta).tolist()
        return cls(tuple(amounts), noise, directions, terms)

    def __call__(self, table: TrialTable, target: TaskFacts, candidates: Sequence[AdapterConfig]) -> Prediction:
        """Mean and covariance of the candidates' accuracies on the target."""
        return self.predict(table, [(target, candidates)])[0]

    def predict(self, table: TrialTable, wanted: Sequence[Wanted]) -> list[Prediction]:
        """The same for several targets, each by itself."""
        tasks = [*table.tasks, *(target for target, _ in wanted)]
        configs = list(dict.fromkeys([*table.configs, *(c for _, candidates in wanted for c in candidates)]))
        number = {config: c for c, config in enumerate(configs)}
        mixture = _mixture(self.terms, self.amounts, tasks, configs, self.directions)
        pairs, scores = _observations(table)
        process = GaussianProcessRegressor(mixture, alpha=self.noise, optimizer=None)
        process.fit(pairs, scores - scores.mean())
        found = []
        for t, (_, candidates) in enumerate(wanted, len(table.tasks)):
            mean, covariance = process.predict(
                np.array([(t, number[config]) for config in candidates], np.float64), return_cov=True
            )
            wider = self.widening**2
            found.append(Prediction(mean + scores.mean(), wider * covariance, wider * self.noise))
        return found

    def calibrated(self, table: TrialTable) -> GaussianProcess:
        """The same with a widening such that 80% intervals of the choices hold 80% of the stored tasks' scores, each
        task predicted from the other sources.
        """
        narrow = dataclasses.replace(self, widening=1.0)
        off = []
        for source in sorted({task.source for task in table.tasks}):
            own = [t for t, task in enumerate(table.tasks) if task.source == source]
            tried = [np.flatnonzero(np.isfinite(table.scores[t])) for t in own]
            wanted = [(table.tasks[t], [table.configs[c] for c in cs]) for t, cs in zip(own, tried, strict=True)]
            others = table.without([source])
            for t, cs, found in zip(own, tried, narrow.predict(others, wanted) if others.tasks else (), strict=False):
                choice = found.choice()
                off.append(abs(table.scores[t, cs[choice]] - found.mean[choice]) / found.std[choice])
        widening = float(np.quantile(off, 0.8) / norm.ppf(0.9)) if off else 1.0
        return dataclasses.replace(self, widening=widening)


@register_recommender("gaussian_process")
def gaussian_process(table: TrialTable, target: TaskFacts, candidates: Sequence[AdapterConfig]) -> Prediction:
    """With the amounts that the shipped library's trials make likeliest."""
    return shipped()(table, target, candidates)


def shipped() -> GaussianProcess:
    """The process whose amounts are shipped with the package."""
    values = json.loads(SHIPPED.read_text())
    terms, amounts = zip(*values["amounts"].items(), strict=True)
    return GaussianProcess(amounts, values["noise"], terms=terms, widening=values["widening"])


def ship(process: GaussianProcess) -> None:
    """Replace the shipped amounts; for whoever rebuilds the library."""
    amounts = dict(zip(process.terms, process.amounts, strict=True))
    values = {"amounts": amounts, "noise": process.noise, "widening": process.widening}
    SHIPPED.write_text(json.dumps(values, indent=1) + "\n")


def _mixture(
    terms: Sequence[str],
    amounts: Sequence[float],
    tasks: Sequence[TaskFacts],
    configs: Sequence[AdapterConfig],
    directions: Directions,
) -> Mixture:
    facts = np.stack([task.numbers for task in tasks])
    by_facts, by_embedding = _gaussian(facts, FACT_LENGTH), _gaussian(directions(tasks), EMBEDDING_LENGTH)
    methods, numbers = config_numbers(configs)
    alike = _gaussian(methods, METHOD_LENGTH) * _gaussian(numbers, NUMBER_LENGTH)
    by_size, always = _gaussian(facts[:, :1], SIZE_LENGTH), np.ones((len(configs), len(configs)))
    known = {
        "level by facts": (by_facts, always),
        "level by embedding": (by_embedding, always),
        "level of each task": (np.eye(len(tasks)), always),
        "gain by size": (by_size, alike),
        "interaction by embedding": (by_embedding, alike),
        "interaction by facts": (by_facts, alike),
    }
    chosen = [known[term] for term in terms]
    return Mixture(np.array(amounts), np.stack([t for t, _ in chosen]), np.stack([c for _, c in chosen]), AMOUNTS)


def _gaussian(values: Array, length: float) -> Array:
    """exp(-|v_i - v_j|^2 / 2 length^2)."""
    return np.asarray(np.exp(-cdist(values, values, "sqeuclidean") / (2 * length**2)))


def _observations(table: TrialTable) -> tuple[Array, Array]:
    """Task and configuration of each score, `(N, 2)`, and the scores `(N,)`."""
    pairs = np.argwhere(np.isfinite(table.scores))
    return pairs.astype(np.float64), table.scores[tuple(pairs.T)]
