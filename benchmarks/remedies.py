"""What was tried for the goals of docs/evaluation.md that are missed, measured on the same targets.

`evaluation_page.py` measures and writes it.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from itertools import pairwise, product

import numpy as np
from page import table

from selection.evaluation import Evaluation
from selection.evaluation.cheapest import WITHIN, CheapChoice
from selection.evaluation.protocol import Learn, Predict, leave_one_source_out
from selection.evaluation.rows import BASELINE, LEARNED, MODELS, NOISE, UNDER_PROBE, rows_of
from selection.evaluation.summary import Mean
from selection.evidence.table import TrialTable
from selection.recommendation.acquisition import CHANCE, cheapest_within
from selection.recommendation.prediction import Prediction, interval_around

SHARES, DRAWS = (0.25, 0.5), 2  # of the sources, and how often they are drawn
CHANCES = (0.2, 0.3, 0.4)  # beside the one that is used
LEVELS = 4  # parts of the targets, by what a linear probe reaches


def with_fewer_sources(learn: Learn, share: float, draw: int) -> Learn:
    """The same from a part of the evidence's sources."""

    def learn_from_some(evidence: TrialTable) -> Predict:
        sources = sorted({task.source for task in evidence.tasks})
        drawn = np.random.default_rng(draw).permutation(sources)
        return learn(evidence.without(drawn[round(share * len(sources)) :].tolist()))

    return learn_from_some


def of_fewer_sources(found: Evaluation) -> dict[tuple[str, float], list[list[Prediction]]]:
    """What the default recommender, with the embedding and with noise, predicts from a part of the sources: for each
    draw, a prediction for each target.
    """
    known = rows_of()
    ways = list(product((LEARNED, NOISE), SHARES, range(DRAWS)))
    rows = {f"{row} {share} {draw}": with_fewer_sources(known[row], share, draw) for row, share, draw in ways}
    predicted = leave_one_source_out(found.table, found.targets, rows, processes=found.processes)
    each = {
        (row, share): [predicted[f"{row} {share} {draw}"] for draw in range(DRAWS)]
        for row, share in product((LEARNED, NOISE), SHARES)
    }
    return each | {(row, 1.0): [found.predictions[row]] for row in (LEARNED, NOISE)}


def remedies_section(found: Evaluation) -> str:
    """The section of the page."""
    oracle = found.mean([choice.cost for choice in found.cheapest_by_oracle()])
    return f"""## What was tried for the goals that are missed

**Regret, and the embedding's part in it.** What repeats of a trial leave to be known is in the section on noise: on
what was tuned with two seeds the recommendation is judged beside somebody who knew the scores of one of them. More
sources help most, and help what is explained more than the choice. The embedding under the backbone that is tuned,
filter by filter, explains more than that under the probe, and both explain more of what sets configurations apart than
noise does; but what comes first is mostly the same with it, and which of them, or which model, chooses better is lost
in the noise of repeats:

{_choice_table(found)}

**The cheapest within one point.** Whoever knew all scores would still pay {oracle.value:.2f} of the best fixed
configuration's cost where the goal is a third: what is best by more than a point is often what takes long. What a lower
chance of being good enough does, if that is asked for:

{_chance_table(found)}

**Narrower intervals.** An interval cannot be narrower than repeats of a trial lie apart. The rest of the width is that
the level of a new task's gains is not known, most where a linear probe leaves much to gain:

{_width_table(found)}"""


def _choice_table(found: Evaluation) -> str:
    lines = []
    sources = len(set(found.sources))
    for (row, share), each in of_fewer_sources(found).items():
        name = f"{'with noise' if row == NOISE else 'recommended'}, from {round(share * (sources - 1))} sources"
        lines.append([name, *_choices(found, each)])
    shown = {f"another model: {row}": row for row in MODELS if row != LEARNED}
    shown["recommended, with the embedding under the probe"] = UNDER_PROBE
    lines += [[name, *_choices(found, [found.predictions[row]])] for name, row in shown.items()]
    for tries in (1, 3):
        choices = found.choices(LEARNED, tries)
        regret, lost = found.mean([c.regret for c in choices]), found.mean([c.lost for c in choices])
        lines.append(
            [
                f"recommended, after {tries} {'try' if tries == 1 else 'tries'}",
                regret.text(),
                lost.text(100, 1),
                "-",
                "-",
            ]
        )
    return table(["", "regret", "accuracy lost, points", "gains explained", "differences explained"], lines)


def _choices(found: Evaluation, each: Sequence[list[Prediction]]) -> list[str]:
    """Regret, accuracy lost, and gains and differences explained, on average over draws of the evidence."""
    draws = [found.with_row("drawn", predictions) for predictions in each]
    choices = [draw.choices("drawn") for draw in draws]
    regret, lost = (
        found.mean(np.mean([[getattr(choice, what) for choice in own] for own in choices], axis=0).tolist())
        for what in ("regret", "lost")
    )
    gains = _on_average([draw.gains_explained("drawn") for draw in draws])
    differences = _on_average([draw.differences_explained("drawn") for draw in draws])
    return [regret.text(), lost.text(100, 1), gains.text(), differences.text()]


def _on_average(means: Sequence[Mean]) -> Mean:
    return Mean(*np.mean([dataclasses.astuple(mean) for mean in means], axis=0))


def _chance_table(found: Evaluation) -> str:
    fixed = [prediction.choice() for prediction in found.predictions[BASELINE]]
    lines = []
    for chance in (*CHANCES, CHANCE):
        choices = []
        for prediction, target, number in zip(found.predictions[LEARNED], found.targets, fixed, strict=True):
            assert prediction.covariance is not None
            chosen = cheapest_within(prediction.mean, prediction.covariance, target.costs, WITHIN, chance)
            choices.append(CheapChoice.of(target, chosen, number))
        within = found.mean([float(choice.is_within) for choice in choices])
        lost, cost = found.mean([c.lost for c in choices]), found.mean([c.cost for c in choices])
        lines.append(
            [f"{chance:g}" + (", as it is" if chance == CHANCE else ""), within.text(), lost.text(100, 1), cost.text()]
        )
    return table(["chance that is asked for", "is within one point", "accuracy lost, points", "cost"], lines)


def _width_table(found: Evaluation) -> str:
    levels = np.array([target.facts.level for target in found.targets])
    edges = np.quantile(levels, np.linspace(0, 1, LEVELS + 1))
    edges[-1] = math.inf
    lines = []
    for low, high in pairwise(edges):
        own = [t for t, level in enumerate(levels) if low <= level < high]
        widths, inside, apart = [], [], []
        for t in own:
            target, prediction = found.targets[t], found.predictions[LEARNED][t]
            intervals = map(interval_around, prediction.mean.tolist(), prediction.std.tolist())
            for (lower, upper), score in zip(intervals, target.scores, strict=True):
                widths.append(upper - lower)
                inside.append(lower <= score <= upper)
            apart += (target.repeated[0] - target.repeated[1]).tolist()
        repeats = 2 * 1.2816 * float(np.std(apart) / 2**0.5) if len(apart) > 1 else math.nan
        name = f"{100 * low:.0f}% to {100 * min(high, levels.max()):.0f}%"
        lines.append(
            [name, str(len(own)), f"{100 * np.mean(widths):.0f}", f"{np.mean(inside):.0%}", f"{100 * repeats:.0f}"]
        )
    head = ["a linear probe reaches", "targets", "width, points", "hold", "80% of repeats lie within, points"]
    return table(head, lines)
