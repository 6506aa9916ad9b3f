"""How good recommendations are: every stored task in turn is the target, and no task of its source may be asked.

Indices: t target, c configuration.
"""

from __future__ import annotations

import dataclasses
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import combinations
from typing import Any

import numpy as np
import numpy.typing as npt
from joblib import Parallel, delayed

from adapters import AdapterConfig, BackboneId
from selection.evidence.table import Array, TaskFacts, TrialTable, table_of
from selection.recommendation.observed import VALIDATION_OF_TRAINING
from selection.recommendation.prediction import Prediction
from selection.recommendation.recommenders.gaussian_process import Wanted
from selection.store import StoredTask, Trial
from task2vec import TaskEmbedding

ENOUGH = 5  # configurations that a target must have been tuned with

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
        trials: The first seed's trial of each: validation accuracy, seconds, learning curve.
        twice: int64 `(R,)`, the numbers of those that were tuned with the two seeds that most were tuned with.
        repeated: float64 `(2, R)`, their test accuracies by each of these seeds.
        costs: float64 `(C,)`, usual seconds of training on so many images, by the trials on other sources.
    """

    facts: TaskFacts
    columns: npt.NDArray[np.int64]
    scores: Array
    trials: tuple[Trial, ...]
    twice: npt.NDArray[np.int64]
    repeated: Array
    costs: Array

    @property
    def linear(self) -> int | None:
        """The number of the linear probe among its configurations; None if that was not tried."""
        return next((number for number, t in enumerate(self.trials) if t.config.method == "linear"), None)

    @property
    def seconds(self) -> Array:
        """float64 `(C,)`, of training."""
        return np.array([trial.seconds for trial in self.trials])

    @property
    def validation(self) -> Array:
        """float64 `(C,)`, validation accuracies."""
        return np.array([trial.validation for trial in self.trials])

    @property
    def num_images(self) -> int:
        """Training images."""
        return self.trials[0].num_images

    @property
    def num_validation(self) -> float:
        """On how many images these were measured."""
        return max(1.0, VALIDATION_OF_TRAINING * self.num_images)


def targets_of(tasks: Sequence[tuple[StoredTask, TaskEmbedding]], backbone: str) -> tuple[TrialTable, list[Target]]:
    """The evidence, and the tasks in it that were tuned with enough configurations to be targets."""
    wanted = BackboneId.of_name(backbone)
    table = table_of(tasks, lambda trial: trial.backbone.is_same(wanted))
    if any(task.backbone_facts is None for task in table.tasks):
        table = table.without_facts()
    known = [task.backbone_facts for task in table.tasks if task.backbone_facts is not None]
    if not all(facts.sketch and facts.compares_with(known[0]) for facts in known):
        table = table.without_fisher()
    stored = {task.name: task for task, _ in tasks}
    usual = _usual_seconds(tasks, table, wanted)
    found = []
    for t, facts in enumerate(table.tasks):
        columns = np.flatnonzero(np.isfinite(table.scores[t]))
        if len(columns) >= ENOUGH:
            own = [trial for trial in stored[facts.name].trials if trial.backbone.is_same(wanted)]
            trials = [trial for trial in own if trial.score is not None]
            configs, seconds = [table.configs[c] for c in columns], usual[facts.source][columns]
            found.append(_target(facts, table.scores[t, columns], columns, configs, seconds, trials))
    return table, found


def _usual_seconds(
    tasks: Sequence[tuple[StoredTask, TaskEmbedding]], table: TrialTable, backbone: BackboneId
) -> dict[str, Array]:
    """For each source `(C, 2)` seconds of training, as `TrialTable.seconds`, by the trials on other sources; those of
    its own count for a configuration that was tried nowhere else.
    """
    found = {}
    for source in {facts.source for facts in table.tasks}:
        others = [pair for pair in tasks if (pair[0].source or pair[0].name) != source]
        there = table_of(others, lambda trial: trial.backbone.is_same(backbone))
        known = dict(zip(there.configs, there.seconds, strict=True))
        own = zip(table.configs, table.seconds, strict=True)
        found[source] = np.array([known.get(config, seconds) for config, seconds in own])
    return found


def _target(
    facts: TaskFacts,
    scores: Array,
    columns: npt.NDArray[np.int64],
    configs: Sequence[AdapterConfig],
    seconds: Array,
    trials: list[Trial],
) -> Target:
    by_config = {config: {trial.seed: trial for trial in trials if trial.config == config} for config in configs}
    first = tuple(own[min(own)] for own in by_config.values())
    pairs = Counter(pair for own in by_config.values() for pair in combinations(sorted(own), 2))
    twice: list[int] = []
    repeated = np.zeros((2, 0))
    if pairs:
        pair = pairs.most_common(1)[0][0]
        each = list(by_config.values())
        twice = [number for number, own in enumerate(each) if set(pair) <= set(own)]
        repeated = np.array([[each[number][seed].score for number in twice] for seed in pair], np.float64)
    usual = seconds @ np.array([1.0, first[0].num_images])
    return Target(facts, columns, scores, first, np.array(twice, np.int64), repeated, usual)


def leave_one_source_out(
    table: TrialTable,
    targets: Sequence[Target],
    rows: Mapping[str, Learn],
    report: Callable[[int, int], None] = lambda done, total: None,
    processes: int = 1,
) -> dict[str, list[Prediction]]:
    """What each row expects of the configurations of each target, learned from the other sources alone.

    Args:
        table: All evidence.
        targets: Tasks in it.
        rows: What learns, by name.
        report: Told how many sources were left out, and of how many.
        processes: Among which the sources are shared.

    Returns:
        For each row a prediction for each target, in the targets' order.
    """
    numbers: dict[str, list[int]] = defaultdict(list)
    for t, target in enumerate(targets):
        numbers[target.facts.source].append(t)
    folds = in_processes(
        processes,
        (
            delayed(_learned_without)(table.without([source]), [targets[t] for t in own], rows)
            for source, own in numbers.items()
        ),
    )
    found: dict[str, dict[int, Prediction]] = {name: {} for name in rows}
    for done, (fold, own) in enumerate(zip(folds, numbers.values(), strict=True), 1):
        for name, predictions in fold.items():
            found[name].update(zip(own, predictions, strict=True))
        report(done, len(numbers))
    return {name: [by_target[t] for t in range(len(targets))] for name, by_target in found.items()}


def _learned_without(
    evidence: TrialTable, targets: Sequence[Target], rows: Mapping[str, Learn]
) -> dict[str, list[Prediction]]:
    """What each row expects of targets of which the evidence knows nothing."""
    wanted = [(target.facts, [evidence.configs[c] for c in target.columns]) for target in targets]
    return {name: learn(evidence)(wanted) for name, learn in rows.items()}


def in_processes(processes: int, calls: Iterable[Any]) -> Iterator[Any]:
    """The results of joblib's delayed calls, in their order, as they come."""
    found: Iterator[Any] = Parallel(n_jobs=processes, return_as="generator")(calls)
    return found
