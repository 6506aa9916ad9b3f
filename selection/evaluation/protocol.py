"""How good recommendations are: every stored task in turn is the target, and no task of its source may be asked.

Indices: t target, c configuration, k tries.

On a target whose configurations scored s_c, with the best b = max s and the average a = mean s, a choice c has the
normalised regret (b - s_c) / (b - a): 0 for the best configuration, 1 for the average one. Tries on the target reveal
validation accuracies, as a user would see them; the scores that count are those on test images.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Sequence

import numpy as np
import numpy.typing as npt
from scipy.stats import norm, spearmanr

from adapters import BackboneId
from selection.recommendation import COVERAGE, VALIDATION_OF_TRAINING, validation_variance
from selection.recommenders import Prediction, TaskFacts, TrialTable
from selection.recommenders.gaussian_process import Wanted
from selection.recommenders.registry import Array
from selection.store import StoredTask
from selection.table import table_of
from selection.trials import Trial
from task2vec import TaskEmbedding

TRIES = (0, 1, 3, 10)
ENOUGH = 15  # configurations that a target must have been tuned with

Predict = Callable[[Sequence[Wanted]], list[Prediction]]
"""What is expected of the candidates of each of some targets."""

Learn = Callable[[TrialTable], Predict]
"""Learns from the evidence without the targets' source."""


@dataclasses.dataclass(frozen=True)
class Target:
    """A task whose answers are known.

    Attributes:
        facts: The task.
        columns: The configurations that were tried on it, by their columns in the table.
        scores: float64 `(C,)`, their test accuracies, means over the seeds.
        validation: float64 `(C,)`, validation accuracies of the first seed.
        num_validation: On how many images these were measured.
        seconds: float64 `(C,)`, of training.
        by_seed: float64 `(S, C)`, test accuracies of each seed that all configurations have.
    """

    facts: TaskFacts
    columns: npt.NDArray[np.int64]
    scores: Array
    validation: Array
    num_validation: float
    seconds: Array
    by_seed: Array


@dataclasses.dataclass(frozen=True)
class Outcome:
    """One choice for one target.

    Attributes:
        row: Who chose.
        target: Its name.
        source: Where it comes from.
        tries: After how many trials on the target.
        regret: Normalised regret, as above.
        lost: Test accuracy below the best configuration's.
        correlation: Spearman's, of the expected and the true scores of all configurations; before any try only.
        deviation: Of the score from what was expected, in standard deviations; NaN without any.
        width: Of the 80% interval.
        share: Training seconds of the tries as a share of the whole grid's.
    """

    row: str
    target: str
    source: str
    tries: int
    regret: float
    lost: float
    correlation: float
    deviation: float
    width: float
    share: float


def targets_of(tasks: Sequence[tuple[StoredTask, TaskEmbedding]], backbone: str) -> tuple[TrialTable, list[Target]]:
    """The evidence, and the tasks in it that were tuned with enough configurations to be targets."""
    wanted = BackboneId.of_name(backbone)
    table = table_of(tasks, lambda trial: trial.backbone.is_same(wanted))
    stored = {task.name: task for task, _ in tasks}
    found = []
    for t, facts in enumerate(table.tasks):
        columns = np.flatnonzero(np.isfinite(table.scores[t]))
        if len(columns) >= ENOUGH:
            own = [trial for trial in stored[facts.name].trials if trial.backbone.is_same(wanted)]
            trials = [trial for trial in own if trial.score is not None]
            found.append(_target(facts, table.scores[t, columns], columns, table, trials))
    return table, found


def _target(
    facts: TaskFacts, scores: Array, columns: npt.NDArray[np.int64], table: TrialTable, trials: list[Trial]
) -> Target:
    seeds = sorted({trial.seed for trial in trials})
    by_key = {(trial.config, trial.seed): trial for trial in trials}
    configs = [table.configs[c] for c in columns]
    complete = [seed for seed in seeds if all((config, seed) in by_key for config in configs)]
    first = [next(by_key[config, seed] for seed in seeds if (config, seed) in by_key) for config in configs]
    return Target(
        facts,
        columns,
        scores,
        np.array([trial.validation for trial in first]),
        max(1.0, VALIDATION_OF_TRAINING * first[0].num_images),
        np.array([trial.seconds for trial in first]),
        np.array([[by_key[config, seed].score for config in configs] for seed in complete]).reshape(-1, len(configs)),
    )


def leave_one_source_out(
    table: TrialTable,
    targets: Sequence[Target],
    rows: dict[str, Learn],
    report: Callable[[int, int], None] = lambda done, total: None,
) -> Iterator[Outcome]:
    """What each row chooses for each target, after 0, 1, 3 and 10 tries."""
    sources = sorted({target.facts.source for target in targets})
    for number, source in enumerate(sources):
        evidence = table.without([source])
        for name, learn in rows.items():
            predict = learn(evidence)
            own = [target for target in targets if target.facts.source == source]
            wanted = [(target.facts, [table.configs[c] for c in target.columns]) for target in own]
            for target, prediction in zip(own, predict(wanted), strict=True):
                yield from outcomes(name, prediction, target)
        report(number + 1, len(sources))


def outcomes(row: str, prediction: Prediction, target: Target, tries: Iterable[int] = TRIES) -> Iterator[Outcome]:
    """What a prediction is worth on a target, before and after tries on it."""
    seen: list[tuple[int, float, float]] = []
    best, mean = target.scores.max(), target.scores.mean()
    correlation = rank_correlation(prediction.mean, target.scores)
    for count in sorted(tries):
        while len(seen) < count:
            number = prediction.next_try(seen)
            variance = validation_variance(target.validation[number], target.num_validation)
            seen.append((number, float(target.validation[number]), variance))
        choice = prediction.choice(seen)
        after = prediction.given(seen)
        std = float(after.std[choice])
        yield Outcome(
            row,
            target.facts.name,
            target.facts.source,
            count,
            regret=float((best - target.scores[choice]) / max(best - mean, 1e-9)),
            lost=float(best - target.scores[choice]),
            correlation=correlation if count == 0 else np.nan,
            deviation=float(target.scores[choice] - after.mean[choice]) / std,
            width=2 * float(norm.ppf(0.5 + COVERAGE / 2)) * std,
            share=float(target.seconds[[number for number, _, _ in seen]].sum() / target.seconds.sum()),
        )


def rank_correlation(a: Array, b: Array) -> float:
    """Spearman's; NaN where one of them is constant."""
    return float(spearmanr(a, b).statistic) if np.ptp(a) > 0 and np.ptp(b) > 0 else float("nan")


def oracle(target: Target) -> Prediction:
    """The scores themselves."""
    return Prediction(target.scores)


def outcome_of_another_seed(target: Target) -> Outcome | None:
    """The configuration that is best by one seed, judged by another: what repeating a trial leaves of a choice.

    None if there are no two seeds.
    """
    if len(target.by_seed) < 2:
        return None
    first, second = target.by_seed[0], target.by_seed[1]
    regrets, lost = [], []
    for chosen, judged in ((first, second), (second, first)):
        loss = judged.max() - judged[int(np.argmax(chosen))]
        regrets.append(loss / max(judged.max() - judged.mean(), 1e-9))
        lost.append(loss)
    correlation = rank_correlation(first, second)
    name, source = target.facts.name, target.facts.source
    return Outcome(
        "best by another seed", name, source, 0, float(np.mean(regrets)), float(np.mean(lost)), correlation,
        np.nan, np.nan, 1.0,
    )  # fmt: skip
