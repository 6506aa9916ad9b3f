"""The figures of the evaluation: regret against tries, calibration, and how much there is to gain where."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from selection.evaluation.best import TRIES, choose
from selection.evaluation.protocol import Target
from selection.evaluation.summary import Mean
from selection.recommendation.prediction import Prediction
from selection.recommendation.recommenders.features import reference_of
from task2vec import distance_matrix
from task2vec.plots import as_map, metric_scaling, name_points, symmetric
from task2vec.style import QUIET, in_style

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@in_style
def plot_regret(regret: Mapping[str, Sequence[Mean]]) -> Figure:
    """Mean normalised regret of each row after each number of `TRIES`, with its 95% interval."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8.5, 4.2), layout="constrained")
    axes = figure.subplots()
    places = np.arange(len(TRIES))
    for number, (row, means) in enumerate(regret.items()):
        offset = 0.04 * (number - len(regret) / 2)
        error = [[m.value - m.low for m in means], [m.high - m.value for m in means]]
        axes.errorbar(places + offset, [m.value for m in means], error, label=row)
    axes.set_xticks(places, [str(tries) for tries in TRIES])
    axes.set_xlabel("tries on the target")
    axes.set_ylabel("normalised regret, mean and 95% interval")
    axes.set_ylim(bottom=0)
    axes.legend(loc="upper left", bbox_to_anchor=(1.01, 1))
    return figure


@in_style
def plot_calibration(predictions: Sequence[Prediction], targets: Sequence[Target]) -> Figure:
    """The share of scores inside central intervals, against the share that is promised."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.2, 4.2), layout="constrained")
    axes = figure.subplots()
    promised = np.linspace(0.05, 0.95, 19)
    for tries in TRIES:
        choices = [choose(p, t, tries) for p, t in zip(predictions, targets, strict=True)]
        held = [np.mean([choice.inside(share) for choice in choices]) for share in promised]
        axes.plot(promised, held, markersize=3, label=f"{tries} {'try' if tries == 1 else 'tries'}")
    axes.axline((0, 0), slope=1, color=QUIET, linestyle="--", linewidth=1)
    axes.set_xlabel("promised share of scores inside the interval")
    axes.set_ylabel(f"measured share, of {len(targets)} tasks")
    axes.set(xlim=(0, 1), ylim=(0, 1), aspect="equal")
    axes.legend()
    return figure


@in_style
def plot_gains(targets: Sequence[Target]) -> Figure:
    """The tasks by their log_cosine distances, coloured by what the best configuration gains over a linear probe."""
    from matplotlib.figure import Figure

    embeddings = [target.facts.embedding for target in targets]
    distances = distance_matrix(embeddings, "log_cosine", reference=reference_of(embeddings))
    points = metric_scaling(symmetric(distances))
    gains = [100 * (target.scores.max() - target.facts.level) for target in targets]
    figure = Figure(figsize=(10, 7.5), layout="constrained")
    axes = figure.subplots()
    drawn = axes.scatter(points[:, 0], points[:, 1], s=40, c=gains, cmap="cividis")
    as_map(axes)
    axes.margins(0.1)  # room for the names
    figure.colorbar(drawn, label="gain of the best configuration over the linear probe, points")
    name_points(axes, points, [target.facts.name for target in targets], fontsize=8)
    return figure
