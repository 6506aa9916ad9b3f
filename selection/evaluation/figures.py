"""The figures of the evaluation: regret against tries, calibration, and where which method was best."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from selection.evaluation.protocol import TRIES, Outcome, Target
from selection.evaluation.summary import covered, mean_of, of
from selection.recommenders import TrialTable
from selection.recommenders.features import reference_of
from task2vec import distance_matrix
from task2vec.plots import classical_scaling

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def plot_regret(outcomes: Sequence[Outcome], rows: Sequence[str]) -> Figure:
    """Mean normalised regret after each number of tries, with its 95% interval."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4.2), layout="constrained")
    axes = figure.subplots()
    places = np.arange(len(TRIES))
    for number, row in enumerate(rows):
        means = [mean_of(of(outcomes, row, tries), lambda o: o.regret) for tries in TRIES]
        offset = 0.04 * (number - len(rows) / 2)
        error = [[m.value - m.low for m in means], [m.high - m.value for m in means]]
        axes.errorbar(places + offset, [m.value for m in means], error, marker="o", capsize=2, label=row)
    axes.set_xticks(places, [str(tries) for tries in TRIES])
    axes.set_xlabel("tries on the target")
    axes.set_ylabel("normalised regret")
    axes.set_ylim(bottom=0)
    axes.legend()
    return figure


def plot_calibration(outcomes: Sequence[Outcome], row: str) -> Figure:
    """The share of scores inside central intervals, against the share that is promised."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.2, 4.2), layout="constrained")
    axes = figure.subplots()
    promised = np.linspace(0.05, 0.95, 19)
    for tries in TRIES[::2]:
        held = [mean_of(of(outcomes, row, tries), lambda o, p=p: covered(o, p)).value for p in promised]  # type: ignore[misc]
        axes.plot(promised, held, marker=".", label=f"{tries} tries")
    axes.plot([0, 1], [0, 1], color="grey", linestyle="--")
    axes.set_xlabel("promised share inside the interval")
    axes.set_ylabel("measured share")
    axes.legend()
    return figure


def plot_best_methods(table: TrialTable, targets: Sequence[Target]) -> Figure:
    """The tasks by their log_cosine distances, coloured by the method of the best configuration."""
    from matplotlib import colormaps
    from matplotlib.figure import Figure
    from sklearn.manifold import smacof

    embeddings = [target.facts.embedding for target in targets]
    distances = distance_matrix(embeddings, "log_cosine", reference=reference_of(embeddings))
    distances = (distances + distances.T) / 2
    points, _ = smacof(distances, init=classical_scaling(distances), n_init=1, normalized_stress=False)
    best = [table.configs[target.columns[int(np.argmax(target.scores))]].method for target in targets]
    figure = Figure(figsize=(10, 7.5), layout="constrained")
    axes = figure.subplots()
    for number, method in enumerate(sorted(set(best))):
        mine = np.array([b == method for b in best])
        axes.scatter(points[mine, 0], points[mine, 1], s=36, color=colormaps["tab20"](number), label=method)
    for point, target in zip(points, targets, strict=True):
        axes.annotate(target.facts.name, point, xytext=(4, 3), textcoords="offset points", fontsize=6)
    axes.set_xticks([])
    axes.set_yticks([])
    axes.legend(title="best method")
    return figure
