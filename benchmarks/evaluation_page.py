"""docs/evaluation.md: what a recommendation is worth on the shipped trials, beside what was asked of it.

python benchmarks/evaluation_page.py    some minutes
"""

from __future__ import annotations

from collections.abc import Mapping

import json_lines
import numpy as np
import typer
from expert_choice import NO_EXPERT, ExpertOutcome, answerable, expert_outcomes
from experts import EXPERT_IMAGES, EXPERTS, FAMILIES, TARGET_IMAGES, WARM_STARTS, stored_embedding
from larger_images import IMAGES as LARGER_IMAGES
from larger_images import Outcome, outcomes
from page import DOCS, table
from remedies import remedies_section
from warm_starts import WarmStarts, warm_starts_by_rate

import selection
from adapters import DEFAULT_BACKBONE
from selection.evaluation import Evaluation, evaluate_store
from selection.evaluation.page import regret_table, repeats_against_differences, write_page
from selection.evaluation.rows import BASELINE, LEARNED, MEANS, NOISE
from selection.evaluation.summary import mean_over_sources
from selection.evidence.library import library_warm_starts, mean_features

OURS, OPTUNA = "our model (`auto_tune(seconds=)`)", "Optuna: TPE with Hyperband"
PRETRAINED = "vit_tiny_patch16_224.augreg_in21k_ft_in1k"


def main() -> None:
    """Evaluate both backbones of the library and write the page."""
    library = selection.load_library()
    found = evaluate_store(library, PRETRAINED, mean_features(PRETRAINED))
    bundled = evaluate_store(
        library, DEFAULT_BACKBONE, mean_features(DEFAULT_BACKBONE), only=("random", BASELINE, LEARNED, MEANS, NOISE)
    )
    warm = {
        "pretrained": warm_starts_by_rate(json_lines.read(WARM_STARTS)),
        "bundled": warm_starts_by_rate(library_warm_starts()),
    }
    experts = _experts()
    more = [
        _larger_section(outcomes(library)),
        _bundled_section(bundled),
        _experts_section(experts),
        _warm_section(warm),
        _goals_section(found, experts),
        remedies_section(found),
    ]
    write_page(found, DOCS, *more)


def _experts() -> list[ExpertOutcome]:
    rows = answerable(json_lines.read(EXPERTS), FAMILIES)
    targets = {name: stored_embedding(name, TARGET_IMAGES) for name in {row["target"] for row in rows}}
    experts = {name: stored_embedding(name, EXPERT_IMAGES) for name in {row["expert"] for row in rows} - {NO_EXPERT}}
    return expert_outcomes(rows, targets, experts)


def _larger_section(found: list[Outcome]) -> str:
    """What is expected from trials at 96 pixels of images that are read at 224."""
    tasks = list(dict.fromkeys(outcome.task for outcome in found))
    configs = list(dict.fromkeys(outcome.config for outcome in found))
    of = {(outcome.task, outcome.config): outcome for outcome in found}
    rows = []
    for task in tasks:
        own = [of.get((task, config)) for config in configs]
        level = next(outcome.level for outcome in own if outcome is not None)
        texts = ["-" if o is None else f"{100 * o.expected:.0f}, {100 * o.reached:.0f}" for o in own]
        rows.append([task, f"{100 * level:.0f}", *texts])
    sources = [outcome.source for outcome in found]
    inside = mean_over_sources(np.array([o.interval[0] <= o.reached <= o.interval[1] for o in found], float), sources)
    error = mean_over_sources(np.array([o.reached - o.expected for o in found]), sources)
    lost = []
    for task in tasks:
        own = [outcome for outcome in found if outcome.task == task]
        lost.append(max(o.reached for o in own) - max(own, key=lambda o: o.expected).reached)
    return f"""## Where images are read at 224 pixels

The trials of the library read images at 96 pixels; the backbone's own size is 224, at which a user's photographs are
read. On {len(tasks)} tasks with {LARGER_IMAGES} training images the configurations were tuned at 224 pixels as well
(`benchmarks/larger_images.py`). What was expected of each test accuracy in percent, from trials at 96 pixels on other
sources and from facts of the target at 224, and what was reached:

{table(["task", "linear probe, cross-validated", *(config.label for config in configs)], rows)}

80% intervals hold {inside.text(100, 0)}% of these; what is reached less what is expected is {error.text(100, 1)}.
The configuration of the highest expectation loses {100 * float(np.mean(lost)):.1f} points to the best of its row."""


def _bundled_section(found: Evaluation) -> str:
    return f"""## On the bundled backbone

The offline demo's 32-pixel backbone, with the trials of version 0.1: {len(found.targets)} targets of
{len(set(found.sources))} sources. Configurations hardly differ there.

{regret_table(found)}"""


def _experts_section(found: list[ExpertOutcome]) -> str:
    rows = []
    for way in dict.fromkeys(outcome.way for outcome in found):
        own = [outcome for outcome in found if outcome.way == way]
        sources = [outcome.source for outcome in own]
        share = mean_over_sources(np.array([outcome.share for outcome in own]), sources)
        lost = mean_over_sources(np.array([outcome.lost for outcome in own]), sources)
        rows.append((share.value, [way, share.text(), lost.text(100, 1)]))
    lines = [line for _, line in sorted(rows, key=lambda row: row[0])]
    return f"""## Which expert for a target

{len({outcome.target for outcome in found})} targets with {TARGET_IMAGES} training images on the pretrained backbone;
the experts are SSF adapters tuned on {EXPERT_IMAGES} images of tasks of other sources (`benchmarks/experts.py`).
Both are of {len(FAMILIES)} families of tasks that ask for the same ({", ".join(FAMILIES)}); a target counts where an
expert of its own family is among the candidates. A linear classifier is fitted on the chosen expert's features. The
share lost is 0 for the best expert and 1 for a random one.

{table(["chosen by", "share lost", "accuracy lost, points"], lines)}"""


def _warm_section(of: Mapping[str, Mapping[float, WarmStarts]]) -> str:
    rows = []
    for backbone, rates in of.items():
        for rate, found in rates.items():
            all_of_them = [f"{found.better:.0%}", f"{found.worse:.0%}", f"{100 * found.gain:+.1f}"]
            rows.append([f"{backbone} backbone, learning rate {rate:g}", str(found.targets), *all_of_them])
            where = [f"{found.better_where_predicted:.0%}", f"{found.worse_where_predicted:.0%}"]
            where.append(f"{100 * found.gain_where_predicted:+.1f}")
            known = where if found.predicted else "---"
            rows.append(["... where a gain was predicted", str(found.predicted), *known])
    return f"""## Starting from an expert

SSF on {TARGET_IMAGES} training images from the adapter of the task that the asymmetric distance names, against the same
from scratch: on the pretrained backbone once each, for the first of the targets (`benchmarks/experts.py warm`); on the
bundled one with two seeds each.

{table(["", "targets", "better from the expert", "worse", "mean gain, points"], rows)}

A gain is predicted from the asymmetric distance by a straight line through the targets of the other sources."""


def _goals_section(found: Evaluation, experts: list[ExpertOutcome]) -> str:
    """What was asked of the recommender, and whether it is so."""
    regret = found.regret(LEARNED).value / max(found.regret(BASELINE).value, 1e-9)
    over_noise = found.better_than(LEARNED, NOISE)
    choices = found.choices(LEARNED)
    inside = found.mean([choice.inside() for choice in choices]).value
    width = found.mean([100 * choice.width for choice in choices]).value
    cheap = found.cheapest(LEARNED)
    within = found.mean([float(choice.is_within) for choice in cheap]).value
    cost = found.mean([choice.cost for choice in cheap]).value
    budgets = {name: found.mean(values).value for name, values in found.budgets.items()}
    ours = budgets[OURS] / max(budgets["random search"], 1e-9)
    explained = found.gains_explained(LEARNED)
    beyond = found.gains_explained_beyond(LEARNED, NOISE)
    repeats = repeats_against_differences(found)
    goals = [
        ("repeats against differences of configurations: at most 1/3", f"{repeats:.2f}", repeats <= 1 / 3),
        ("regret before any try, of the best fixed one's: at most 0.6", f"{regret:.2f}", regret <= 0.6),
        ("... better than with noise for the embedding", over_noise.text(), over_noise.low > 0),
        ("gain over the linear probe explained: 0.5", explained.text(), explained.value >= 0.5),
        ("... more of it than with noise for the embedding", beyond.text(), beyond.low > 0),
        ("cheapest within one point: is within, 75%", f"{within:.0%}", within >= 0.75),
        ("... costs of the best fixed one: at most a third", f"{cost:.2f}", cost <= 1 / 3),
        ("budget of three trainings, of random search's regret: at most 0.4", f"{ours:.2f}", ours <= 0.4),
        ("80% intervals hold 75 to 85%", f"{inside:.0%}", 0.75 <= inside <= 0.85),
        ("... at most 15 points wide", f"{width:.0f}", width <= 15),
    ]
    if "Optuna: TPE with Hyperband" in budgets:
        name = "our model (`auto_tune(seconds=)`)"
        pair = f"{budgets[name]:.2f} against {budgets['Optuna: TPE with Hyperband']:.2f}"
        goals.append(
            ("... below Optuna's TPE with Hyperband", pair, budgets[name] < budgets["Optuna: TPE with Hyperband"])
        )
    ways = {outcome.way for outcome in experts} - {"best expert", "random expert", NO_EXPERT}
    shares = {way: float(np.mean([o.share for o in experts if o.way == way])) for way in ways}
    if shares:
        best = min(shares, key=lambda way: shares[way])
        goals.append(
            (
                "expert selection: share of the gap lost, at most 0.3",
                f"{shares[best]:.2f} ({best})",
                shares[best] <= 0.3,
            )
        )
    rows = [[goal, value, "yes" if reached else "no"] for goal, value, reached in goals]
    return "## Goals\n\n" + table(["goal", "measured", "reached"], rows)


if __name__ == "__main__":
    typer.run(main)
