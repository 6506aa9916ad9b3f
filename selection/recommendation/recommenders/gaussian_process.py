"""A Gaussian process over tasks and configurations at once, of what tuning gains over a linear probe.

Indices: t task, c configuration, n observation.

    score_tc = probe_t + r_t (g_tc + noise_tc),   g ~ GP(0, k),   noise_tc ~ N(0, s / repeats_tc)
    r_t = min(1, 2 (1 - probe_t))^h

    k((t, c), (t', c')) =   a_0 K_cc'                      what a configuration gains on average
                          + a_1 F_tt' + a_2 E_tt' + a_3 d_tt'    how much there is to gain on a task
                          + (a_4 F_tt' + a_5 E_tt' + a_6 d_tt') K_cc'    which configuration gains it there

F is a Gaussian kernel of the tasks' facts with a length for each of them, and E one of their embeddings under the
backbone that is tuned, or under the probe where that was not measured, exp(-log_cosine(t, t') / l^2), a Gaussian of the
unit vectors whose cosine log_cosine is (or a product of such kernels of parts of the embeddings, with a length each); d
is 1 for a task with itself; K is a Gaussian kernel of the configurations, in part shared by all of one method. The
products say that what worked on a task is expected to work on tasks like it, for the same configuration and for similar
ones.

Where the linear probe leaves little wrong, there is little to gain, and trials repeat better: r makes both smaller
where it leaves less than half. A score that is the mean of several repeats says more than that of a single trial, whose
noise has variance s. Amounts a, lengths, h and s maximise the marginal likelihood (Rasmussen and Williams 2006, section
5.4.1), with a weak prior that keeps them near ordinary sizes where the trials say little. They are averaged over draws
of the observations, so that they depend less on what a single draw happens to hold.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from scipy.optimize import minimize
from scipy.stats import norm
from torch import Tensor

from adapters import AdapterConfig
from selection.evidence.table import Array, TaskFacts, TrialTable
from selection.recommendation.prediction import COVERAGE, Prediction
from selection.recommendation.recommenders.features import (
    Described,
    config_numbers,
    task_directions,
    task_numbers,
)
from selection.recommendation.recommenders.registry import register_recommender

SHIPPED = Path(__file__).with_name("gaussian_process.json")
ROWS = 200  # observations in a draw that settings are learned from: the likelihood takes the cube of their number
DRAWS = 8  # whose settings are averaged: those of a single one depend on which observations it happens to hold
STEPS = 40  # of L-BFGS
PRECISION = 1e-6  # of the likelihood's logarithm, at which it stops
FEWEST_SOURCES = 8  # that a widening is learned from; with fewer the process is taken at its word
PRIOR_SPREAD = 1.0  # of the logarithm of a setting around where learning starts
# That a logarithm may go from there, where no prior of this spread would look for it; some units farther, likelihoods
# leave the range of numbers, and the search would end where it began.
FARTHEST = 3.0
NOISE = 7e-4  # where learning starts: about the squared difference of repeats (docs/pilot.md)
SMALLEST = 1e-4  # squared gain, where nothing gains anything
LEAST_LEFT = 0.01  # that a linear probe leaves wrong: one that is always right on some images is not on all

AMOUNTS = {
    "average": 0.3,
    "level by facts": 0.3,
    "level by embedding": 0.3,
    "level of each task": 0.1,
    "choice by facts": 0.1,
    "choice by embedding": 0.1,
    "choice of each task": 0.03,
}
"""Where learning starts, as shares of the mean squared gain."""

LENGTHS = {"length of settings": 1.5, "share of method": 0.5}
LENGTH_OF_EMBEDDING, LENGTH_OF_FACT, POWER = 0.8, 2.0, 0.5
"""The same for lengths, of which every part of the embedding and every fact has its own, and for h."""


def starting_settings(num_facts: int, squared_gain: float, num_parts: int = 1) -> dict[str, float]:
    """The settings of a process of gains with this mean square, before anything is learned.

    Args:
        num_facts: Numbers that are known of a task.
        squared_gain: Mean of the squared gains.
        num_parts: Parts of the embedding.
    """
    amounts = {name: share * squared_gain for name, share in AMOUNTS.items()}
    return (
        amounts
        | LENGTHS
        | {"noise": NOISE, "power of what is left": POWER}
        | {f"length of embedding {number}": LENGTH_OF_EMBEDDING for number in range(num_parts)}
        | {f"length of fact {number}": LENGTH_OF_FACT for number in range(num_facts)}
    )


Wanted = tuple[TaskFacts, Sequence[AdapterConfig]]
"""A target and its candidates."""


@dataclasses.dataclass(frozen=True)
class GaussianProcess:
    """The recommender with given settings.

    Attributes:
        settings: As `starting_settings` has them.
        directions: What stands for the tasks' embeddings, `(T, any)`, or `(P, T, any)` for P parts; others than the
            embeddings are for ablations.
        numbers: What stands for the tasks' facts, `(T, any)`.
        widening: What standard deviations are multiplied by. A likelihood knows nothing of how far a new source may
            lie from all others, nor that the choice is the luckiest of many; `calibrated` does.
    """

    settings: dict[str, float]
    directions: Described = task_directions
    numbers: Described = task_numbers
    widening: float = 1.0

    @classmethod
    def learn(
        cls,
        table: TrialTable,
        directions: Described = task_directions,
        numbers: Described = task_numbers,
        seed: int = 0,
    ) -> GaussianProcess:
        """The settings that make scores of the table likeliest: geometric means over `DRAWS` draws of `ROWS` scores
        each, or the settings for all of them where there are no more.
        """
        seen = _Observations.of(table)
        likeness = _Likeness.of(table.tasks, table.configs, directions, numbers)
        first = starting_settings(
            likeness.facts.shape[1], max(float(seen.gains.square().mean()), SMALLEST), len(likeness.embedding)
        )
        generator, count = np.random.default_rng(seed), len(seen.gains)
        draws = [generator.permutation(count)[:ROWS] for _ in range(DRAWS if count > ROWS else 1)]
        logs = np.mean([_likeliest(likeness, seen.of_rows(rows), first) for rows in draws], axis=0)
        return cls(dict(zip(first, np.exp(logs).tolist(), strict=True)), directions, numbers)

    def __call__(self, table: TrialTable, target: TaskFacts, candidates: Sequence[AdapterConfig]) -> Prediction:
        """Mean and covariance of the candidates' accuracies on the target."""
        return self.predict(table, [(target, candidates)])[0]

    def predict(self, table: TrialTable, wanted: Sequence[Wanted]) -> list[Prediction]:
        """The same for several targets, each by itself."""
        tasks = [*table.tasks, *(target for target, _ in wanted)]
        configs = list(dict.fromkeys([*table.configs, *(c for _, candidates in wanted for c in candidates)]))
        number = {config: c for c, config in enumerate(configs)}
        likeness = _Likeness.of(tasks, configs, self.directions, self.numbers)
        settings = {name: torch.tensor(value, dtype=torch.float64) for name, value in self.settings.items()}
        seen = _Observations.of(table)
        factor = torch.linalg.cholesky(seen.covariance(likeness, settings))
        weights = torch.cholesky_solve(seen.gains[:, None], factor)
        found = []
        for t, (target, candidates) in enumerate(wanted, len(table.tasks)):
            asked = torch.tensor([(t, number[config]) for config in candidates])
            across = likeness.kernel(asked, seen.pairs, settings)
            mean = target.level + (across @ weights)[:, 0]
            solved = torch.linalg.solve_triangular(factor, across.T, upper=False)
            covariance = likeness.kernel(asked, asked, settings) - solved.T @ solved
            wider = self.widening**2
            noise = float(wider * likeness.scale(settings)[t] ** 2 * settings["noise"])
            found.append(Prediction(mean.numpy(), wider * covariance.numpy(), noise))
        return found

    def calibrated(self, table: TrialTable) -> GaussianProcess:
        """The same with a widening such that 80% intervals of the choices hold 80% of the stored tasks' scores, each
        task predicted from the other sources.

        With K the covariance of all observations, noise included, those of a source b are predicted from the others by
        mean y_b - P^-1 (K^-1 y)_b and covariance P^-1, P = (K^-1)_bb (Rasmussen and Williams 2006, section 5.4.2, for
        blocks), so that one inverse serves all sources.
        """
        sources = [task.source for task in table.tasks]
        if len(set(sources)) < FEWEST_SOURCES:
            return dataclasses.replace(self, widening=1.0)
        seen = _Observations.of(table)
        likeness = _Likeness.of(table.tasks, table.configs, self.directions, self.numbers)
        settings = {name: torch.tensor(value, dtype=torch.float64) for name, value in self.settings.items()}
        precision = torch.linalg.inv(seen.covariance(likeness, settings)).numpy()
        gains, task_of = seen.gains.numpy(), seen.pairs[:, 0].numpy()
        pulled = precision @ gains
        off = []
        for source in sorted(set(sources)):
            own = np.flatnonzero([sources[t] == source for t in task_of])
            covariance = np.linalg.inv(precision[np.ix_(own, own)])
            error = covariance @ pulled[own]  # of the observed gains, from what was expected of them
            spread = np.sqrt(np.diag(covariance))
            for t in np.unique(task_of[own]):
                mine = np.flatnonzero(task_of[own] == t)
                chosen = mine[np.argmax(gains[own][mine] - error[mine])]
                off.append(abs(error[chosen]) / spread[chosen])
        return dataclasses.replace(self, widening=float(np.quantile(off, COVERAGE) / norm.ppf((1 + COVERAGE) / 2)))


@register_recommender("gaussian_process")
def gaussian_process(table: TrialTable, target: TaskFacts, candidates: Sequence[AdapterConfig]) -> Prediction:
    """With the settings that trials make likeliest: those that are shipped for the library's backbones, or learned in
    some seconds from the table of another one.
    """
    known = shipped().get(kind_of(table))
    process = GaussianProcess.learn(table).calibrated(table) if known is None else known
    return process(table, target, candidates)


def shipped() -> dict[str, GaussianProcess]:
    """The processes that were learned from the shipped library, by the kinds of tables that they are for."""
    found = json.loads(SHIPPED.read_text())
    return {kind: GaussianProcess(own["settings"], widening=own["widening"]) for kind, own in found.items()}


def kind_of(table: TrialTable) -> str:
    """Whose trials a table holds, and what is known of all of its tasks under the backbone."""
    looked = all(task.backbone_facts is not None for task in table.tasks)
    fisher = all(task.has_fisher for task in table.tasks)
    return f"{table.backbone}, {'with' if looked else 'without'} facts" + (" and Fisher" if fisher else "")


@dataclasses.dataclass(frozen=True)
class _Likeness:
    """What the kernel is made of: facts, and squared distances between tasks and between configurations.

    Attributes:
        left: float64 `(T,)`, min(1, 2 (1 - probe)): 1 where a linear probe is wrong at half of the images or more.
        facts: float64 `(T, F)`, the facts themselves.
        embedding: float64 `(P, T, T)`, of each part.
        method: float64 `(C, C)`, 1 for two configurations of one method and otherwise 0.
        settings: float64 `(C, C)`.
    """

    left: Tensor
    facts: Tensor
    embedding: Tensor
    method: Tensor
    settings: Tensor

    @classmethod
    def of(
        cls, tasks: Sequence[TaskFacts], configs: Sequence[AdapterConfig], directions: Described, numbers: Described
    ) -> _Likeness:
        methods, settings = (torch.from_numpy(values) for values in config_numbers(configs))
        parts = torch.from_numpy(directions(tasks))
        embedding = _squared_distances(parts if parts.ndim == 3 else parts[None])
        wrong = torch.tensor([1 - task.level for task in tasks], dtype=torch.float64)
        left = (2 * wrong.clamp(min=LEAST_LEFT)).clamp(max=1)
        facts = torch.from_numpy(numbers(tasks))
        return cls(left, facts, embedding, methods @ methods.T, _squared_distances(settings))

    def scale(self, s: dict[str, Tensor]) -> Tensor:
        """r of the module's text, `(T,)`."""
        return self.left ** s["power of what is left"]

    def kernel(self, rows: Tensor, columns: Tensor, s: dict[str, Tensor]) -> Tensor:
        """r_t k((t, c), (t', c')) r_t' of the module's text between pairs `(N, 2)` and `(M, 2)` of task and
        configuration, `(N, M)`.
        """
        lengths = torch.stack([s[f"length of fact {number}"] for number in range(self.facts.shape[1])])
        apart = (self.facts[:, None] - self.facts) / lengths
        by_facts = torch.exp(-apart.square().sum(dim=2) / 2)
        spans = torch.stack([s[f"length of embedding {number}"] for number in range(len(self.embedding))])
        by_embedding = torch.exp(-(self.embedding / (2 * spans.square())[:, None, None]).sum(dim=0))
        alike = torch.exp(-self.settings / (2 * s["length of settings"] ** 2))
        share = s["share of method"] / (1 + s["share of method"])
        config = self.method * (share + (1 - share) * alike)

        def of_tasks(what: str) -> Tensor:
            alone = s[f"{what} of each task"] * torch.eye(len(self.left), dtype=torch.float64)
            return s[f"{what} by facts"] * by_facts + s[f"{what} by embedding"] * by_embedding + alone

        scale = self.scale(s)
        both = torch.outer(scale, scale)  # of tasks, not of pairs, which are many more
        level, choice = both * of_tasks("level"), both * (s["average"] + of_tasks("choice"))
        tasks, configs = (rows[:, 0], columns[:, 0]), (rows[:, 1], columns[:, 1])
        return _of_pairs(level, *tasks) + _of_pairs(choice, *tasks) * _of_pairs(config, *configs)


@dataclasses.dataclass(frozen=True)
class _Observations:
    """What was measured, N scores.

    Attributes:
        pairs: int64 `(N, 2)`, numbers of task and configuration.
        gains: float64 `(N,)`, over the linear probe.
        repeats: float64 `(N,)`, trials that a score is the mean of.
    """

    pairs: Tensor
    gains: Tensor
    repeats: Tensor

    @classmethod
    def of(cls, table: TrialTable) -> _Observations:
        pairs = np.argwhere(np.isfinite(table.scores))
        gains, repeats = (values[tuple(pairs.T)] for values in (table.gains(), table.repeats))
        return cls(*(torch.from_numpy(values) for values in (pairs, gains, repeats.astype(np.float64))))

    def of_rows(self, rows: npt.NDArray[np.int64]) -> _Observations:
        """Some of them."""
        return _Observations(self.pairs[rows], self.gains[rows], self.repeats[rows])

    def covariance(self, likeness: _Likeness, settings: dict[str, Tensor]) -> Tensor:
        """`(N, N)`, noise included."""
        scale = likeness.scale(settings).index_select(0, self.pairs[:, 0])
        noise = scale.square() * settings["noise"] / self.repeats
        return likeness.kernel(self.pairs, self.pairs, settings) + torch.diag(noise)


def _of_pairs(values: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """`values[rows][:, columns]`, whose gradient takes a fraction of the time that indexing by both at once takes."""
    return values.index_select(0, rows).index_select(1, columns)


def _squared_distances(values: Tensor) -> Tensor:
    return torch.cdist(values, values).square()


def _likeliest(likeness: _Likeness, seen: _Observations, first: dict[str, float]) -> Array:
    """The logarithms of the settings that make observations likeliest, from those that learning starts at."""
    start = torch.tensor([math.log(value) for value in first.values()], dtype=torch.float64)

    def loss(theta: Array) -> tuple[float, Array]:
        free = torch.tensor(theta, dtype=torch.float64, requires_grad=True)
        value = _negative_log_likelihood(likeness, seen, dict(zip(first, free.exp(), strict=True)))
        value = value + ((free - start) / PRIOR_SPREAD).square().sum() / 2
        (gradient,) = torch.autograd.grad(value, free)
        return value.item(), gradient.numpy()

    bounds = [(value - FARTHEST, value + FARTHEST) for value in start.tolist()]
    options = {"maxiter": STEPS, "ftol": PRECISION}
    found = minimize(loss, start.numpy(), jac=True, method="L-BFGS-B", bounds=bounds, options=options)
    return np.asarray(found.x)


def _negative_log_likelihood(likeness: _Likeness, seen: _Observations, settings: dict[str, Tensor]) -> Tensor:
    """-log N(y; 0, K), without its constant, for the gains y and their covariance K.

    Its derivative by K is (K^-1 - K^-1 y y' K^-1) / 2 (Rasmussen and Williams 2006, equation 5.9), which takes less
    time than to go back through the factorisation.
    """
    covariance = seen.covariance(likeness, settings)
    with torch.no_grad():
        factor = torch.linalg.cholesky(covariance)
        weights = torch.cholesky_solve(seen.gains[:, None], factor)
        value = (seen.gains @ weights[:, 0]) / 2 + factor.diagonal().log().sum()
        derivative = (torch.cholesky_inverse(factor) - weights @ weights.T) / 2
    return value + ((covariance - covariance.detach()) * derivative).sum()
