"""Expert selection: an adapter tuned on another task, chosen for a target before anything is tuned on it.

Indices: t target, e expert.

The experts are adapters tuned on one task each; on a target with 100 images only a linear classifier is fitted on an
expert's features. A choice is worth (best - accuracy) / (best - mean) of the experts from other sources: 0 for the best
expert, 1 for a random one.
"""

from __future__ import annotations

import dataclasses
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from selection.recommendation.model2vec import Model2Vec
from selection.recommendation.recommenders.features import reference_of
from selection.recommendation.transferability import SCORES
from task2vec import TaskEmbedding, distance_matrix

DISTANCES = ("asymmetric", "cosine", "log_cosine")
NO_EXPERT = "no expert"  # the backbone's own features


@dataclasses.dataclass(frozen=True)
class ExpertOutcome:
    """One choice of an expert for one target.

    Attributes:
        way: Who chose.
        target: Its name.
        source: Where it comes from.
        share: Of the gap between the best and a random expert that is lost.
        lost: Accuracy below the best expert's.
    """

    way: str
    target: str
    source: str
    share: float
    lost: float


def expert_outcomes(
    rows: Sequence[Mapping[str, Any]],
    targets: Mapping[str, TaskEmbedding],
    experts: Mapping[str, TaskEmbedding],
) -> list[ExpertOutcome]:
    """What each way to choose an expert is worth on each target.

    Args:
        rows: Accuracies and transferability scores of experts from other sources than the target's, as
            `benchmarks/experts.py transfer` writes them.
        targets: Embedding of each target's 100 images.
        experts: Embedding of each expert's task.
    """
    table: dict[str, dict[str, Mapping[str, Any]]] = defaultdict(dict)
    untuned = {row["target"]: row["accuracy"] for row in rows if row["expert"] == NO_EXPERT}
    sources = {row["target"]: row["source"] for row in rows}
    for row in rows:
        if row["expert"] != NO_EXPERT:
            table[row["target"]][row["expert"]] = row
    found = []
    for target, candidates in table.items():
        names = sorted(candidates)
        accuracy = np.array([candidates[name]["accuracy"] for name in names])
        near = [experts[name] for name in names]
        others = [t for t in table if sources[t] != sources[target]]
        choices = {score: int(np.argmax([candidates[n][score] for n in names])) for score in SCORES}
        for distance in DISTANCES:
            reference = reference_of([*near, targets[target]])
            distances = distance_matrix(near, distance, [targets[target]], reference=reference)[:, 0]
            choices[distance] = int(np.argmin(distances))
        choices["model2vec"] = names.index(_model2vec(table, target, names, others, targets, experts))
        choices["best on other targets"] = int(np.argmax([_mean_rank(table, others, name) for name in names]))
        best, mean = accuracy.max(), accuracy.mean()
        reached = {way: accuracy[choice] for way, choice in choices.items()} | {"best expert": best}
        if target in untuned:
            reached[NO_EXPERT] = untuned[target]
        for way, own in reached.items():
            lost = float(best - own)
            found.append(ExpertOutcome(way, target, sources[target], lost / max(best - mean, 1e-9), lost))
        found.append(ExpertOutcome("random expert", target, sources[target], 1.0, float(best - mean)))
    return found


def answerable(rows: Sequence[Mapping[str, Any]], families: Mapping[str, Sequence[str]]) -> list[Mapping[str, Any]]:
    """The rows of targets for which an expert of their own family was tried, so that a right answer is among them."""
    family = {task: name for name, tasks in families.items() for task in tasks}
    kept = {row["target"] for row in rows if family.get(row["expert"]) == family[row["target"]]}
    return [row for row in rows if row["target"] in kept]


def _model2vec(
    table: Mapping[str, Mapping[str, Mapping[str, Any]]],
    target: str,
    names: Sequence[str],
    others: Sequence[str],
    targets: Mapping[str, TaskEmbedding],
    experts: Mapping[str, TaskEmbedding],
) -> str:
    """The expert that is likeliest the best, learned from which of these experts was best on the other targets."""
    usable = {t: [name for name in names if name in table[t]] for t in others}
    best = {t: max(known, key=lambda name: table[t][name]["accuracy"]) for t, known in usable.items() if known}
    model = Model2Vec.fit(
        [targets[t] for t in best], list(best.values()), sources={name: experts[name] for name in names}
    )
    return model.pick(targets[target])


def _mean_rank(table: Mapping[str, Mapping[str, Mapping[str, Any]]], others: Sequence[str], name: str) -> float:
    """How an expert does on the other targets, as the mean share of experts that it beats there."""
    shares = []
    for t in others:
        if name in table[t]:
            own = table[t][name]["accuracy"]
            shares.append(np.mean([own > row["accuracy"] for row in table[t].values()]))
    return float(np.mean(shares)) if shares else 0.0
