"""What recommendations from a store are worth, by three questions: which is best, which is cheap enough, and what a
budget finds.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
from joblib import cpu_count, delayed

from selection.errors import SelectionError
from selection.evaluation.best import (
    TRIES,
    Choice,
    choose,
    differences,
    explained,
    explained_beyond,
    gains,
    rank_correlation,
)
from selection.evaluation.budget import Replay, Search, at_random, by_model, in_order, successive_halving
from selection.evaluation.cheapest import CheapChoice, cheapest_in_truth, choose_cheapest
from selection.evaluation.optuna_search import is_installed, tpe_with_hyperband
from selection.evaluation.protocol import ENOUGH, Target, in_processes, leave_one_source_out, targets_of
from selection.evaluation.repeats import Judged, judged_by_both, judged_by_the_other
from selection.evaluation.rows import BASELINE, CHOSEN, LEARNED, MODELS, NOISE, rows_of
from selection.evaluation.summary import Mean, mean_over_sources
from selection.evidence.table import TrialTable
from selection.recommendation.learning_curves import LearningCurves
from selection.recommendation.prediction import Prediction
from selection.store import TaskFilter, TaskStore
from task2vec.embedding import of_commonest_kind
from task2vec.progress import reporting

FEWEST_SOURCES = 3
BUDGET = 3.0  # full trainings: their mean seconds on a target
SEEDS = 10  # of searches that draw at random
FIRST = 3  # configurations by our order that other searches are started with
MOST_PROCESSES = 8  # unless more are asked for: each takes about a gigabyte of memory


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """Everything that was measured.

    Attributes:
        backbone: Whose trials count.
        table: The trials.
        targets: The tasks that were targets.
        predictions: What each row expects of each target's configurations, before any try.
        curves: Stored learning curves of each source, as lines that say where a training ends.
        processes: Among which the replay of searches is shared.
    """

    backbone: str
    table: TrialTable
    targets: list[Target]
    predictions: dict[str, list[Prediction]]
    curves: dict[str, LearningCurves | None]
    processes: int = 1

    @property
    def sources(self) -> list[str]:
        """Where each target comes from."""
        return [target.facts.source for target in self.targets]

    def with_row(self, name: str, predictions: list[Prediction]) -> Evaluation:
        """The same with another row."""
        return dataclasses.replace(self, predictions=self.predictions | {name: predictions})

    def choices(self, row: str, tries: int = 0) -> list[Choice]:
        """What a row chooses for each target."""
        return [choose(p, t, tries) for p, t in zip(self.predictions[row], self.targets, strict=True)]

    def mean(self, values: list[float]) -> Mean:
        """Over the targets, with an interval over their sources."""
        return mean_over_sources(np.array(values, np.float64), self.sources)

    def regret(self, row: str, tries: int = 0) -> Mean:
        """Normalised."""
        return self.mean([choice.regret for choice in self.choices(row, tries)])

    def better_than(self, row: str, other: str) -> Mean:
        """By how much a row's regret before any try is smaller than another's, target by target."""
        pairs = zip(self.choices(row), self.choices(other), strict=True)
        return self.mean([theirs.regret - own.regret for own, theirs in pairs])

    def same_choice(self, row: str, other: str) -> float:
        """On what share of the targets two rows choose the same configuration before any try."""
        pairs = zip(self.predictions[row], self.predictions[other], strict=True)
        return float(np.mean([own.choice() == theirs.choice() for own, theirs in pairs]))

    def correlation(self, row: str) -> Mean:
        """Spearman's, of the expected and the true scores."""
        pairs = zip(self.predictions[row], self.targets, strict=True)
        return self.mean([rank_correlation(p.mean, t.scores) for p, t in pairs])

    def gains_explained(self, row: str) -> Mean:
        """Share of the variance of gains over the linear probe."""
        return explained(gains, self.predictions[row], self.targets)

    def gains_explained_beyond(self, row: str, other: str) -> Mean:
        """By how much larger a row's share is than another's."""
        return explained_beyond(gains, self.predictions[row], self.predictions[other], self.targets)

    def differences_explained(self, row: str) -> Mean:
        """Share of the variance of what sets the configurations of a target apart."""
        return explained(differences, self.predictions[row], self.targets)

    def differences_explained_beyond(self, row: str, other: str) -> Mean:
        """By how much larger a row's share is than another's."""
        return explained_beyond(differences, self.predictions[row], self.predictions[other], self.targets)

    def has_model(self, row: str) -> bool:
        """Whether a row expects accuracies and not only an order."""
        return all(prediction.covariance is not None for prediction in self.predictions[row])

    def cheapest(self, row: str) -> list[CheapChoice]:
        """What a row takes for the cheapest configuration that is good enough."""
        fixed = [prediction.choice() for prediction in self.predictions[BASELINE]]
        triples = zip(self.predictions[row], self.targets, fixed, strict=True)
        return [choose_cheapest(prediction, target, number) for prediction, target, number in triples]

    def cheapest_by_fixed(self) -> list[CheapChoice]:
        """The best fixed configuration, as if it were the cheapest that is good enough."""
        fixed = [prediction.choice() for prediction in self.predictions[BASELINE]]
        return [CheapChoice.of(target, number, number) for target, number in zip(self.targets, fixed, strict=True)]

    def cheapest_by_oracle(self) -> list[CheapChoice]:
        """What somebody who knew the scores would take."""
        fixed = [prediction.choice() for prediction in self.predictions[BASELINE]]
        return [cheapest_in_truth(target, number) for target, number in zip(self.targets, fixed, strict=True)]

    def judged_by_seeds(self) -> dict[str, list[Judged]]:
        """What choices are worth by each of two seeds, beside that of somebody who knew the other seed's scores."""
        rows = [row for row in (BASELINE, LEARNED, NOISE) if row in self.predictions]
        found = {
            row: [judged_by_both(t, p.mean) for t, p in zip(self.targets, self.predictions[row], strict=True)]
            for row in rows
        }
        return found | {"whoever knew the other seed's scores": [judged_by_the_other(t) for t in self.targets]}

    @cached_property
    def budgets(self) -> dict[str, list[float]]:
        """Normalised regret of each search on each target with curves, within `BUDGET` full trainings; means over
        `SEEDS` where a search draws at random. NaN for targets without curves.
        """
        triples = list(zip(self.targets, self.predictions[LEARNED], self.predictions[BASELINE], strict=True))
        whole = [t for t, target in enumerate(self.targets) if all(len(trial.curve) > 1 for trial in target.trials)]
        calls = (delayed(_searched)(*triples[t], self.curves[self.targets[t].facts.source]) for t in whole)
        found = dict(zip(whole, in_processes(self.processes, calls), strict=True))
        each = [found.get(t, {}) for t in range(len(self.targets))]
        names = list(dict.fromkeys(name for regrets in each for name in regrets))
        return {name: [regrets.get(name, float("nan")) for regrets in each] for name in names}

    def summary(self) -> dict[str, Any]:
        """The means as plain values."""
        return {
            row: {
                "regret": {str(tries): self.regret(row, tries).value for tries in TRIES},
                "lost": self.mean([choice.lost for choice in self.choices(row)]).value,
                "explained": self.gains_explained(row).value if self.has_model(row) else None,
            }
            for row in self.predictions
        }


def evaluate_store(
    store: TaskStore,
    backbone: str,
    mean_features: Mapping[str, npt.NDArray[np.float32]] | None = None,
    *,
    only: Collection[str] | None = None,
    processes: int | None = None,
    progress: bool = True,
) -> Evaluation:
    """Leave out each source in turn.

    Args:
        store: Tasks with trials. Where several probes embedded them, or one from several layers on, those embeddings
            count that are of one kind with most of the others.
        backbone: Whose trials count.
        mean_features: See `rows_of`.
        only: Names of the rows to measure; all if not given.
        processes: Among which the work is shared; as many as there are cores, up to `MOST_PROCESSES`, if not given.
        progress: Show progress on standard error.

    Raises:
        SelectionError: the trials come from too few sources.
    """
    architecture = backbone.split(".")[0]
    stored = {task.name: task for task in store.tasks(TaskFilter(trials_on=architecture))}
    embeddings = of_commonest_kind([e for e in store.embeddings(method="montecarlo") if e.task in stored])
    table, targets = targets_of([(stored[e.task], e) for e in embeddings], backbone)
    found_sources = {target.facts.source for target in targets}
    if len(found_sources) < FEWEST_SOURCES:
        raise SelectionError(
            f"{store.location} has tasks with {ENOUGH} or more configurations tried on {backbone} from "
            f"{len(found_sources)} source(s), and leaving one out needs {FEWEST_SOURCES}; run more trials, or name the "
            "tasks' sources"
        )
    if mean_features is not None and not all(task.name in mean_features for task in table.tasks):
        mean_features = None
    processes = processes or min(cpu_count(), MOST_PROCESSES)
    with reporting(progress) as report:
        rows = {name: row for name, row in rows_of(mean_features).items() if only is None or name in only}
        found = leave_one_source_out(
            table, targets, rows, lambda done, total: report("Sources left out", done, total), processes
        )
    if all(model in found for model in MODELS):
        found[CHOSEN] = chosen_by_other_sources({model: found[model] for model in MODELS}, targets)
    return Evaluation(backbone, table, targets, found, _curves_without(targets), processes)


def chosen_by_other_sources(models: Mapping[str, list[Prediction]], targets: list[Target]) -> list[Prediction]:
    """For each target the prediction of the model with the smallest regret on other sources, which count the same.

    So the target's own regret has no part in the choice; what the models learned for those sources may rest on it.
    """
    regrets = {
        model: np.array([choose(p, t).regret for p, t in zip(predictions, targets, strict=True)])
        for model, predictions in models.items()
    }
    sources = np.array([target.facts.source for target in targets])
    found = []
    for t, source in enumerate(sources):
        others = [sources == other for other in dict.fromkeys(sources.tolist()) if other != source]
        best = min(models, key=lambda model: np.mean([regrets[model][own].mean() for own in others]))
        found.append(models[best][t])
    return found


def _searched(target: Target, own: Prediction, fixed: Prediction, curves: LearningCurves | None) -> dict[str, float]:
    """What each search's answer lacks on a target, as a mean over its seeds."""
    return {
        name: float(np.mean([_regret(search, target) for search in searches]))
        for name, searches in _searches(own, fixed, curves).items()
    }


def _searches(own: Prediction, fixed: Prediction, curves: LearningCurves | None) -> dict[str, list[Search]]:
    """The searches for a target by name, one for each seed.

    Args:
        own: What we expect of its configurations.
        fixed: What they reached on average elsewhere.
        curves: Of the trials of other sources.
    """
    order = np.argsort(-own.mean, kind="stable").tolist()
    by_fixed = np.argsort(-fixed.mean, kind="stable").tolist()
    seeds = range(SEEDS)
    found: dict[str, list[Search]] = {
        "random search": [at_random(seed) for seed in seeds],
        "successive halving (ASHA)": [successive_halving(None, seed) for seed in seeds],
        "... in our order": [successive_halving(order, 0)],
        "best on average elsewhere, in order": [in_order(by_fixed)],
        "our order, whole trainings": [in_order(order)],
        "our model (`auto_tune(seconds=)`)": [by_model(own, curves)],
    }
    if is_installed():
        found["Optuna: TPE with Hyperband"] = [tpe_with_hyperband(seed=seed) for seed in seeds]
        found["... started with our order"] = [tpe_with_hyperband(order[:FIRST], seed) for seed in seeds]
    return found


def _regret(search: Search, target: Target) -> float:
    """Normalised regret of what a search names; that of an average configuration where it finished none."""
    answer = search(Replay(target, BUDGET * float(target.seconds.mean())))
    best, mean = float(target.scores.max()), float(target.scores.mean())
    score = mean if answer is None else float(target.scores[answer])
    return (best - score) / max(best - mean, 1e-9)


def _curves_without(targets: list[Target]) -> dict[str, LearningCurves | None]:
    """For each source the lines that the curves of all other sources give."""
    curves = [(t.facts.source, [accuracy for accuracy, _ in trial.curve]) for t in targets for trial in t.trials]
    sources = {source for source, _ in curves}
    return {left: LearningCurves.fit(curve for source, curve in curves if source != left) for left in sources}
