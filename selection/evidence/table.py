"""What was tuned on stored tasks, and how it went, as recommenders take it.

Indices: t stored task, c configuration.
"""

from __future__ import annotations

import dataclasses
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence

import numpy as np
import numpy.typing as npt
from scipy.optimize import nnls

from adapters import AdapterConfig
from selection.store import BackboneFacts, StoredTask, Trial
from task2vec import TaskEmbedding

Array = npt.NDArray[np.float64]


@dataclasses.dataclass(frozen=True)
class TaskFacts:
    """What is known of a task before anything is tuned on it.

    Attributes:
        name: What it is called.
        embedding: Its Task2Vec embedding, with the number of images and classes.
        source: What its images were taken from; tasks of one source are not independent.
        backbone_facts: What one pass of its images through the backbone said; None if nobody looked.
    """

    name: str
    embedding: TaskEmbedding
    source: str = ""
    backbone_facts: BackboneFacts | None = None

    @property
    def level(self) -> float:
        """Where tuning starts from: the cross-validated accuracy of a linear classifier, in [0, 1], on the features of
        the backbone or, where nobody looked, of the probe.
        """
        if self.backbone_facts is not None:
            return self.backbone_facts.linear_probe
        classifier = self.embedding.classifier
        return classifier.accuracy if classifier.cross_validated is None else classifier.cross_validated

    @property
    def has_fisher(self) -> bool:
        """Whether the backbone's Fisher was measured on it, filter by filter."""
        return self.backbone_facts is not None and bool(self.backbone_facts.sketch)

    def without_fisher(self) -> TaskFacts:
        """The same as if nobody had measured it."""
        facts = self.backbone_facts
        return self if facts is None else dataclasses.replace(self, backbone_facts=facts.without_fisher())


@dataclasses.dataclass(frozen=True)
class TrialTable:
    """What was tuned on stored tasks with one backbone, and how it went.

    Attributes:
        tasks: T of them.
        configs: C of them.
        scores: float64 `(T, C)`, mean test accuracy in [0, 1] over the trials; NaN where there is none.
        repeats: int64 `(T, C)`, of how many trials it is the mean.
        parameters: int64 `(C,)`, trainable ones beside the classifier's.
        seconds: float64 `(C, 2)`, of training: those that every training takes, and those for each training image.
        backbone: Its architecture.
    """

    tasks: tuple[TaskFacts, ...]
    configs: tuple[AdapterConfig, ...]
    scores: Array
    repeats: npt.NDArray[np.int64]
    parameters: npt.NDArray[np.int64]
    seconds: Array
    backbone: str = ""

    def without(self, sources: Sequence[str]) -> TrialTable:
        """What was tuned on tasks of other sources."""
        return self.of_tasks([t for t, task in enumerate(self.tasks) if task.source not in sources])

    def of_tasks(self, kept: Sequence[int]) -> TrialTable:
        """Some of the tasks only."""
        rows = list(kept)
        return dataclasses.replace(
            self, tasks=tuple(self.tasks[t] for t in rows), scores=self.scores[rows], repeats=self.repeats[rows]
        )

    def of_configs(self, kept: Sequence[int]) -> TrialTable:
        """Some of the configurations only."""
        columns = list(kept)
        return TrialTable(
            self.tasks,
            tuple(self.configs[c] for c in columns),
            self.scores[:, columns],
            self.repeats[:, columns],
            self.parameters[columns],
            self.seconds[columns],
            self.backbone,
        )

    def looked_at(self) -> TrialTable:
        """The tasks that somebody looked at through the backbone, if they are half of all; otherwise none of them."""
        kept = [t for t, task in enumerate(self.tasks) if task.backbone_facts is not None]
        return self.of_tasks(kept if 2 * len(kept) >= len(self.tasks) else [])

    def with_fisher_like(self, facts: BackboneFacts) -> TrialTable:
        """The tasks whose Fisher compares with these facts', if they are half of all; otherwise all, without it."""
        alike = [
            t
            for t, task in enumerate(self.tasks)
            if task.has_fisher and task.backbone_facts and task.backbone_facts.compares_with(facts)
        ]
        return self.of_tasks(alike) if 2 * len(alike) >= len(self.tasks) else self.without_fisher()

    def without_fisher(self) -> TrialTable:
        """The same as if nobody had measured the backbone's Fisher."""
        return dataclasses.replace(self, tasks=tuple(task.without_fisher() for task in self.tasks))

    def without_facts(self) -> TrialTable:
        """The same as if nobody had looked at the tasks through the backbone."""
        return dataclasses.replace(
            self, tasks=tuple(dataclasses.replace(task, backbone_facts=None) for task in self.tasks)
        )

    def seconds_on(self, images: float) -> Array:
        """Expected seconds `(C,)` of training on so many images, on the machine that made the trials."""
        return self.seconds @ np.array([1.0, images])

    def gains(self) -> Array:
        """`(T, C)`: by how much each score exceeds the accuracy of a linear probe of its task."""
        return self.scores - np.array([task.level for task in self.tasks])[:, None]


def on_equal_terms(table: TrialTable, target: TaskFacts) -> tuple[TrialTable, TaskFacts]:
    """Evidence and target with the same kind of facts on both sides.

    If at least half of the stored tasks have the kind of facts that the target has, those tasks are kept and the others
    left out. Otherwise the facts are dropped on both sides.
    """
    looked = table.looked_at()
    if target.backbone_facts is None or not looked.tasks:
        return table.without_facts(), dataclasses.replace(target, backbone_facts=None)
    alike = looked.with_fisher_like(target.backbone_facts) if target.has_fisher else looked.without_fisher()
    return alike, target if all(task.has_fisher for task in alike.tasks) else target.without_fisher()


def _seconds_of(trials: Sequence[Trial]) -> tuple[float, float]:
    """Seconds that every training of a configuration takes, and those for each image: non-negative least squares of the
    relative errors. For each number of images the median counts, since a machine may have been busy.

    Numbers of images that are less than twofold apart cannot tell the two from each other: then all goes by images.
    """
    by_images: dict[int, list[float]] = defaultdict(list)
    for trial in trials:
        by_images[trial.num_images].append(trial.seconds)
    images = np.array(list(by_images), np.float64)
    taken = np.array([np.median(own) for own in by_images.values()])
    if images.max() >= 2 * images.min() and taken.min() > 0:
        always, each = nnls(np.stack([1 / taken, images / taken], axis=1), np.ones(len(taken)))[0]
        if each > 0:
            return float(always), float(each)
    return 0.0, float(np.median([trial.seconds / trial.num_images for trial in trials]))


def table_of(
    tasks: Iterable[tuple[StoredTask, TaskEmbedding]], fits: Callable[[Trial], bool] = lambda trial: True
) -> TrialTable:
    """The trials of stored tasks that have a test score, as a table; tasks without any are left out.

    Args:
        tasks: The tasks, each with its embedding.
        fits: Which trials count.
    """
    facts: list[TaskFacts] = []
    backbones: set[str] = set()
    scores: list[dict[AdapterConfig, list[float]]] = []
    by_config: dict[AdapterConfig, list[Trial]] = defaultdict(list)
    for task, embedding in tasks:
        tried: dict[AdapterConfig, list[float]] = defaultdict(list)
        counted = [trial for trial in task.trials if fits(trial) and trial.score is not None]
        for trial in counted:
            assert trial.score is not None
            tried[trial.config].append(trial.score)
            by_config[trial.config].append(trial)
        backbones |= {trial.backbone.architecture for trial in counted}
        if counted:
            looked = next((f for f in task.facts if f.backbone.is_same(counted[0].backbone)), None)
            facts.append(TaskFacts(task.name, embedding, task.source or task.name, looked))
            scores.append(tried)
    configs = tuple(sorted(by_config, key=lambda config: config.label))
    means = [[np.mean(tried[config]) if config in tried else np.nan for config in configs] for tried in scores]
    repeats = [[len(tried.get(config, ())) for config in configs] for tried in scores]
    return TrialTable(
        tuple(facts),
        configs,
        np.array(means, np.float64).reshape(len(facts), len(configs)),
        np.array(repeats, np.int64).reshape(len(facts), len(configs)),
        parameters=np.array([by_config[config][0].parameters for config in configs], np.int64),
        seconds=np.array([_seconds_of(by_config[config]) for config in configs], np.float64).reshape(-1, 2),
        backbone=min(backbones, default=""),
    )
