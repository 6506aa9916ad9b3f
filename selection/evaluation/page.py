"""The evaluation of a store, as tables on the terminal and as a page with its figures."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from selection.evaluation.best import TRIES
from selection.evaluation.cheapest import CheapChoice
from selection.evaluation.evaluate import BUDGET, Evaluation
from selection.evaluation.figures import plot_calibration, plot_gains, plot_regret
from selection.evaluation.repeats import FEWEST, noise_and_spread
from selection.evaluation.rows import BASELINE, LEARNED, MEANS, NOISE

FEW_IMAGES = 250  # to learn from
DRAWN = ("random", BASELINE, "nearest_vote", LEARNED, NOISE)  # rows of the figure


def tables(found: Evaluation) -> str:
    """The three questions' tables, in Markdown."""
    return "\n\n".join((regret_table(found), _before_table(found), _cheapest_table(found), _budget_table(found)))


def write_page(found: Evaluation, folder: Path, *more: str) -> None:
    """evaluation.md and its figures.

    Args:
        found: What was measured.
        folder: Made if it is not there.
        more: Sections to add, in Markdown.
    """
    folder.mkdir(parents=True, exist_ok=True)
    shown = {row: [found.regret(row, tries) for tries in TRIES] for row in DRAWN if row in found.predictions}
    plot_regret(shown).savefig(folder / "evaluation-regret.png", dpi=110)
    plot_calibration(found.predictions[LEARNED], found.targets).savefig(folder / "evaluation-calibration.png", dpi=110)
    plot_gains(found.targets).savefig(folder / "evaluation-map.png", dpi=110)
    sections = [_head(found), _best_section(found), _cheapest_section(found), _budget_section(found)]
    sections += [_noise_section(found), *more]
    (folder / "evaluation.md").write_text("\n\n".join(sections) + "\n")


def markdown(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table whose columns after the first are aligned to the right."""
    lines = ["| " + " | ".join(head) + " |", "| --- |" + " ---: |" * (len(head) - 1)]
    return "\n".join(lines + ["| " + " | ".join(row) + " |" for row in rows])


def _head(found: Evaluation) -> str:
    counts = [len(target.scores) for target in found.targets]
    return f"""# What a recommendation is worth

This page is written from the trials of `{found.backbone}` by `task2vec evaluate --out`.

Each of {len(found.targets)} tasks with {min(counts)} to {max(counts)} tried configurations is the target in turn. No
task of its source may be asked then ({len(set(found.sources))} sources). {int(np.isfinite(found.table.scores).sum()):,}
pairs of task and configuration were tuned. Whatever learns is learned anew without the source, its settings included.
In brackets: 95% bootstrap intervals over sources."""


def _best_section(found: Evaluation) -> str:
    return f"""## Which is best?

Normalised regret is 0 for the best configuration of the target's own grid and 1 for its average one, by test accuracy.
Tries reveal the validation accuracy that a user would see.

{regret_table(found)}

The rows with dots are `gaussian_process`, the default, with something else in place of the task's embedding under the
backbone that is tuned: with that under the probe, or with nothing that tells tasks apart; or with the facts or the
embedding alone. The last row is, for each source, whichever of the models that learn did best on all others.

![Regret against tries](evaluation-regret.png)

Before any try, with the shares that are explained of the variance of gains over the linear probe, and of that of the
differences between a target's configurations, by which a choice goes:

{_before_table(found)}

Regret that the recommendation saves before any try, target by target: {_saved(found)}.

{_explained_beyond(found)}

The fewer images a target has, the more of its scores is luck (see the section on noise), which nobody can foresee.
Regret before any try by the number of training images:

{_size_table(found)}

![Calibration](evaluation-calibration.png)
![Tasks coloured by what there is to gain](evaluation-map.png)"""


def _explained_beyond(found: Evaluation) -> str:
    """What the embedding explains that others in its place do not, and whether that changes the choice."""
    rows = [
        [
            row,
            found.gains_explained_beyond(LEARNED, row).text(),
            found.differences_explained_beyond(LEARNED, row).text(),
            f"{found.same_choice(LEARNED, row):.0%}",
        ]
        for row in (NOISE, MEANS)
        if row in found.predictions
    ]
    head = ["beyond what is explained", "of the gains", "of the differences", "the first choice is the same on"]
    return markdown(head, rows)


def _saved(found: Evaluation) -> str:
    against = {
        BASELINE: "the best fixed configuration",
        NOISE: "noise in place of the embedding",
        MEANS: "mean features in place of it",
    }
    known = [row for row in against if row in found.predictions]
    return "; ".join(f"{found.better_than(LEARNED, row).text()} against {against[row]}" for row in known)


def regret_table(found: Evaluation) -> str:
    """Regret after each number of tries, a row for each recommender."""
    rows = [[row, *(found.regret(row, tries).text() for tries in TRIES)] for row in found.predictions]
    return markdown(["regret after tries", *map(str, TRIES)], rows)


def _size_table(found: Evaluation) -> str:
    """Regret by how many images are learned from."""
    shown = [row for row in (BASELINE, LEARNED, NOISE) if row in found.predictions]
    regrets = {row: np.array([choice.regret for choice in found.choices(row)]) for row in shown}
    few = np.array([target.num_images <= FEW_IMAGES for target in found.targets])
    rows = []
    for name, which in ((f"up to {FEW_IMAGES} images", few), (f"more than {FEW_IMAGES} images", ~few)):
        own = [found.mean(np.where(which, regrets[row], np.nan).tolist()).text() for row in shown]
        rows.append([name, str(which.sum()), *own])
    return markdown(["targets", "number", *shown], rows)


def _before_table(found: Evaluation) -> str:
    rows = []
    for row in found.predictions:
        choices = found.choices(row)
        modelled = found.has_model(row)
        inside, width = (found.mean([c.inside() for c in choices]), found.mean([100 * c.width for c in choices]))
        rows.append(
            [
                row,
                found.mean([choice.lost for choice in choices]).text(100, 1),
                found.correlation(row).text(),
                found.gains_explained(row).text() if modelled else "-",
                found.differences_explained(row).text() if modelled or row == BASELINE else "-",
                f"{inside.value:.0%}" if modelled else "-",
                f"{width.value:.0f}" if modelled else "-",
            ]
        )
    explained = ["gains explained", "differences explained"]
    head = ["", "accuracy lost, points", "rank correlation", *explained, "in the 80% interval", "width, points"]
    return markdown(head, rows)


def _cheapest_section(found: Evaluation) -> str:
    return f"""## What is the cheapest that is good enough?

`recommend(..., within=0.01)`: the cheapest configuration, in seconds of training, that is as likely as not within one
point of the best. Its cost is given as a share of the best fixed configuration's.

{_cheapest_table(found)}"""


def _cheapest_table(found: Evaluation) -> str:
    ways: dict[str, list[CheapChoice]] = {"the best fixed configuration": found.cheapest_by_fixed()}
    ways |= {row: found.cheapest(row) for row in found.predictions if found.has_model(row)}
    ways["whoever knew the scores"] = found.cheapest_by_oracle()
    rows = []
    for way, choices in ways.items():
        within = found.mean([float(choice.is_within) for choice in choices])
        lost, cost = found.mean([c.lost for c in choices]), found.mean([c.cost for c in choices])
        rows.append([way, within.text(), lost.text(100, 1), cost.text()])
    return markdown(["", "is within one point", "accuracy lost, points", "cost"], rows)


def _budget_section(found: Evaluation) -> str:
    return f"""## I have an hour

Searches within the time of {BUDGET:g} full trainings of a mean configuration, replayed on stored learning curves.
Normalised regret of the configuration that each ends with.

{_budget_table(found)}"""


def _budget_table(found: Evaluation) -> str:
    if not found.budgets:
        return "There is no target whose trials all have a learning curve, so no search could be replayed."
    rows = [[name, found.mean(regrets).text()] for name, regrets in found.budgets.items()]
    return markdown(["search", "regret"], rows)


def _noise_section(found: Evaluation) -> str:
    """What repeating the trials says of the scores, and of what could be known at all."""
    twice = [target for target in found.targets if len(target.twice) >= FEWEST]
    if not twice:
        return "## Noise\n\nToo little was tuned with two seeds to know anything of the noise of the scores."
    sizes = sorted({_rounded(target.num_images) for target in twice})
    of_size = {f"{size:,} images": [t for t in twice if _rounded(t.num_images) == size] for size in sizes}
    repeats = []
    for name, targets in (of_size | {"all": twice}).items():
        noise, spread = noise_and_spread(targets)
        numbers = [f"{100 * noise:.1f}", f"{100 * spread:.1f}", f"{noise / max(spread, 1e-9):.2f}"]
        repeats.append([name, str(len(targets)), *numbers])
    rows = []
    for name, judged in found.judged_by_seeds().items():
        regret, lost, within = map(found.mean, map(list, zip(*judged, strict=True)))
        rows.append([name, regret.text(), lost.text(100, 1), within.text()])
    return f"""## Noise

On {len(twice)} targets several configurations were tuned with two seeds. By how much repeating a trial moves its
accuracy (what moves all configurations alike left out), and by how much configurations differ, in points (standard
deviations):

{markdown(["targets", "number", "repeats", "configurations", "ratio"], repeats)}

Nobody can know how the next repeat will turn out. So choices among these configurations are judged by each seed's
scores in turn, beside that of somebody who knew all scores of the other seed:

{markdown(["chosen by", "regret", "accuracy lost, points", "is within one point"], rows)}"""


def _rounded(images: int) -> int:
    """Draws of 100 images may have 98 or 101, for the classes' sake."""
    return round(images, 1 - len(str(images)))


def repeats_against_differences(found: Evaluation) -> float:
    """By how much repeating a trial moves its accuracy, over by how much configurations differ; NaN without repeats."""
    noise, spread = noise_and_spread(found.targets)
    return noise / max(spread, 1e-9)
