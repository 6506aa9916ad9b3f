"""What a store knows, as recommenders take it: tasks, configurations, and a table of scores."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable

import numpy as np

from adapters import AdapterConfig
from selection.recommenders.registry import TaskFacts, TrialTable
from selection.store import StoredTask
from selection.trials import Trial
from task2vec import TaskEmbedding


def table_of(
    tasks: Iterable[tuple[StoredTask, TaskEmbedding]], fits: Callable[[Trial], bool] = lambda trial: True
) -> TrialTable:
    """The trials of stored tasks that have a test score, as a table; tasks without any are left out.

    Args:
        tasks: The tasks, each with its embedding.
        fits: Which trials count.
    """
    facts: list[TaskFacts] = []
    scores: list[dict[AdapterConfig, list[float]]] = []
    by_config: dict[AdapterConfig, list[Trial]] = defaultdict(list)
    for task, embedding in tasks:
        tried: dict[AdapterConfig, list[float]] = defaultdict(list)
        for trial in filter(fits, task.trials):
            if trial.score is not None:
                tried[trial.config].append(trial.score)
                by_config[trial.config].append(trial)
        if tried:
            facts.append(TaskFacts(task.name, embedding, task.source or task.name))
            scores.append(tried)
    configs = tuple(sorted(by_config, key=lambda config: config.label))
    rows = [[np.mean(tried[config]) if config in tried else np.nan for config in configs] for tried in scores]
    return TrialTable(
        tuple(facts),
        configs,
        np.array(rows, np.float64).reshape(len(facts), len(configs)),
        parameters=np.array([by_config[config][0].parameters for config in configs], np.int64),
        seconds=np.array([np.mean([t.seconds / t.num_images for t in by_config[config]]) for config in configs]),
    )
