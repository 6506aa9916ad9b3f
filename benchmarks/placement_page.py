"""docs/placement.md: what `placement.py` trained, as tables.

python benchmarks/placement_page.py benchmarks/results/placement/
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any

import json_lines
import numpy as np
import numpy.typing as npt
import typer
from page import DOCS, table
from placement import COSTS, EPOCHS, IMAGES, MEASURED, MEASURES, SEEDS, TRAININGS, WAYS, sensitivity_file
from sklearn.linear_model import RidgeCV

import adapters
import task2vec
from adapters import AdapterConfig
from selection.evaluation.summary import mean_over_sources
from selection.evidence.placed import ENOUGH_IMAGES

BACKBONE = "vit_tiny_patch16_224"
SHOWN = {
    "few": "few of the images",
    "labels": "the dataset's labels, not the classifier's",
    "weak": "a penalty of the classifier a hundred times weaker",
    "tenth": "after a tenth of training",
}
"""In what each of `MEASURES` differs from `start`."""
FACTS = Path(__file__).with_name("results") / "facts.jsonl"


@dataclasses.dataclass(frozen=True)
class Difference:
    """How far a way is above another on the same tasks and seeds, in points.

    Attributes:
        mean: Over the tasks; a task counts once, with the mean over its seeds.
        low: Lower end of the 95% bootstrap interval over the tasks' sources.
        high: Upper end.
        worst: The smallest difference of a task.
        tasks: How many there are.
        pairs: How many pairs of a task and a seed.
    """

    mean: float
    low: float
    high: float
    worst: float
    tasks: int
    pairs: int


def difference(
    rows: Sequence[dict[str, Any]], of: Callable[[dict[str, Any]], bool], base: Callable[[dict[str, Any]], bool]
) -> Difference | None:
    """Between the rows `of` one kind and those of the `base`, where a task and seed has both.

    None where fewer than two tasks have both.
    """
    scores = [{(r["task"], r["seed"]): r["score"] for r in rows if kind(r)} for kind in (of, base)]
    by_task: dict[str, list[float]] = {}
    pairs = sorted(set(scores[0]) & set(scores[1]))
    for task, seed in pairs:
        by_task.setdefault(task, []).append(100 * (scores[0][task, seed] - scores[1][task, seed]))
    if len(by_task) < 2:
        return None
    sources = {row["task"]: row["source"] for row in rows}
    means = np.array([np.mean(found) for found in by_task.values()])
    found = mean_over_sources(means, [sources[task] for task in by_task])
    return Difference(found.value, found.low, found.high, float(means.min()), len(means), len(pairs))


def write(
    out: Annotated[Path, typer.Argument(help="the folder that `run` added to")],
    facts: Annotated[Path, typer.Option(help="what `evidence.py facts` wrote")] = FACTS,
) -> None:
    """Write docs/placement.md."""
    rows = json_lines.so_far(out / TRAININGS)
    (DOCS / "placement.md").write_text(
        PAGE.format(
            tasks=len({row["task"] for row in rows}),
            seeds=len({row["seed"] for row in rows}),
            trainings=len(rows),
            images=IMAGES,
            epochs=EPOCHS,
            differences=_differences_table(rows),
            accuracies=_accuracies_table(rows),
            by_seed=_seeds_of_ways(rows),
            other_budgets=_other_budgets(rows),
            own=_own_table(rows),
            each_seed=_each_seed(rows),
            learned=_learned_table(rows, facts, out),
            cost=_cost(out),
            measurements=_measurements(rows, out),
            few=ENOUGH_IMAGES,
            fisher=_fisher_table(rows, out),
            formulas=_formulas(),
        )
    )


def _differences_table(rows: list[dict[str, Any]]) -> str:
    multiples = sorted({row["multiple"] for row in rows})
    lines = []
    for way, shown in WAYS.items():
        if way == "uniform" or not any(row["way"] == way for row in rows):
            continue
        cells = [shown]
        for multiple in multiples:
            at = [row for row in rows if row["multiple"] == multiple]
            found = difference(at, lambda r, way=way: r["way"] == way, lambda r: r["way"] == "uniform")  # type: ignore[misc]
            cells.append(
                "-"
                if found is None
                else f"{found.mean:+.1f} ({found.low:+.1f} to {found.high:+.1f}), {found.worst:+.1f}; {found.pairs}"
            )
        lines.append(cells)
    return table(["way", *(f"x {multiple:g}" for multiple in multiples)], lines)


def _own_table(rows: list[dict[str, Any]]) -> str:
    """What the target's own Fisher adds to what is the same for all tasks."""
    lines = []
    for against in ("uniform", "usual", "early"):
        found = difference(
            [row for row in rows if row["multiple"] == 1.0],
            lambda r: r["way"] == "mass",
            lambda r, against=against: r["way"] == against,  # type: ignore[misc]
        )
        if found is not None:
            interval = f"{found.low:+.1f} to {found.high:+.1f}"
            lines.append([WAYS[against], f"{found.mean:+.1f}", interval, f"{found.worst:+.1f}", str(found.tasks)])
    return table(["Fisher's mass against", "points", "95% interval", "worst task", "tasks"], lines)


def _each_seed(rows: list[dict[str, Any]]) -> str:
    """Fisher's mass against the same rank everywhere, a row for each seed that two tasks or more were trained with."""
    lines = []
    for seed in sorted({row["seed"] for row in rows}):
        found = difference(
            [row for row in rows if row["multiple"] == 1.0 and row["seed"] == seed],
            lambda r: r["way"] == "mass",
            lambda r: r["way"] == "uniform",
        )
        if found is not None:
            interval = f"{found.low:+.1f} to {found.high:+.1f}"
            lines.append([str(seed), f"{found.mean:+.1f}", interval, f"{found.worst:+.1f}", str(found.tasks)])
    return table(["seed", "points", "95% interval", "worst task", "tasks"], lines)


def _accuracies_table(rows: list[dict[str, Any]]) -> str:
    """Accuracy of the same rank everywhere, and how far each other way is above it on the same seeds."""
    at = [row for row in rows if row["multiple"] == 1.0]
    scores = {(row["task"], row["seed"], row["way"]): 100 * row["score"] for row in at}
    seeds = sorted({row["seed"] for row in at})
    ways = [way for way in WAYS if way != "uniform" and any(row["way"] == way for row in at)]
    groups = {row["task"]: row["group"] for row in at}
    lines = []
    for task in sorted(groups, key=lambda task: (groups[task], task)):
        base = {seed: scores[task, seed, "uniform"] for seed in seeds if (task, seed, "uniform") in scores}
        cells = [task, groups[task], f"{np.mean(list(base.values())):.1f}" if base else "-"]
        for way in ways:
            above = [scores[task, seed, way] - score for seed, score in base.items() if (task, seed, way) in scores]
            cells.append(f"{np.mean(above):+.1f}" if above else "-")
        lines.append(cells)
    return table(["task", "group", "`uniform`", *(f"`{way}`" for way in ways)], lines)


def _seeds_of_ways(rows: list[dict[str, Any]]) -> str:
    """How many seeds each way was trained with, in words."""
    ways: dict[int, list[str]] = {}
    for way in WAYS:
        seeds = {row["seed"] for row in rows if row["way"] == way and row["multiple"] == 1.0}
        if seeds:
            ways.setdefault(len(seeds), []).append(f"`{way}`")
    return "; ".join(f"{count} of {', '.join(own)}" for count, own in sorted(ways.items(), reverse=True))


def _other_budgets(rows: list[dict[str, Any]]) -> str:
    """Each way at other numbers of parameters beside uniform at those of rank 8."""
    lines = []
    for multiple in sorted({row["multiple"] for row in rows} - {1.0}):
        for way, shown in WAYS.items():
            found = difference(
                rows,
                lambda r, way=way, multiple=multiple: (r["way"], r["multiple"]) == (way, multiple),  # type: ignore[misc]
                lambda r: (r["way"], r["multiple"]) == ("uniform", 1.0),
            )
            if found is not None:
                interval = f"{found.low:+.1f} to {found.high:+.1f}"
                lines.append([f"x {multiple:g}", shown, f"{found.mean:+.1f}", interval, str(found.tasks)])
    shown = table(
        ["parameters", "way", "points above uniform at the parameters of rank 8", "95% interval", "tasks"], lines
    )
    others, whole = (
        " and ".join(sorted({r.get("precision", "bfloat16") for r in rows if (r["multiple"] == 1.0) == is_whole}))
        for is_whole in (False, True)
    )
    return f"{shown}\n\nThose at other numbers of parameters were trained in {others}, those of rank 8 in {whole}."


def _cost(out: Path) -> str:
    """Seconds of each measurement beside those of training."""
    costs = json_lines.so_far(out / COSTS)
    lines = []
    for kind in MEASURES:
        shares = [100 * row[kind] / (EPOCHS * row["epoch"]) for row in costs if kind in row]
        if shares:
            share = f"{np.median(shares):.1f}% ({min(shares):.1f} to {max(shares):.1f})"
            lines.append([f"`{kind}`", share, str(len(shares))])
    return table(["sensitivity", "seconds, of the training's (median)", "tasks timed"], lines)


def _measurements(rows: list[dict[str, Any]], out: Path) -> str:
    """How many ranks each measurement puts elsewhere than all images do before training."""
    budget = round(rows[0]["budget"] / rows[0]["multiple"])  # at rank 8
    lines = []
    for kind, shown in SHOWN.items():
        draws = sorted({(m["task"], m["seed"]) for m in json_lines.so_far(out / MEASURED) if m["measure"] == kind})
        draws = [draw for draw in draws if sensitivity_file(out, *draw, "start").exists()]
        moved = [ranks_moved(out, budget, *draw, kind) for draw in draws]
        if moved:
            lines.append([f"`{kind}`", shown, f"{np.mean(moved):.1f}", str(max(moved)), str(len(moved))])
    return table(["sensitivity", "what is otherwise", "ranks elsewhere, mean", "at most", "draws"], lines)


def ranks_moved(out: Path, budget: int, task: str, seed: int, kind: str) -> int:
    """How many of LoRA's ranks the Fisher's mass puts into other blocks by one measurement than by `start`."""
    ranks = [dict(_placed_ranks(sensitivity_file(out, task, seed, which), budget)) for which in ("start", kind)]
    return sum(abs(ranks[0].get(site, 0) - ranks[1].get(site, 0)) for site in set(ranks[0]) | set(ranks[1])) // 2


def _placed_ranks(sensitivity: Path, budget: int) -> tuple[tuple[str, int], ...]:
    mass = task2vec.Sensitivity.load(sensitivity).mass
    return adapters.allocate(AdapterConfig("lora"), mass, BACKBONE, parameters=budget, rule="mass").sizes


HALVES = ("early", "late")


@dataclasses.dataclass(frozen=True)
class Tried:
    """A task on which LoRA was placed everywhere, early and late, at the same parameters.

    Attributes:
        name: Its name.
        source: Where its images come from.
        gains: `(2,)`, points of early and of late above everywhere.
        known: What is known of it before, by name: numbers `(F,)`.
    """

    name: str
    source: str
    gains: npt.NDArray[np.float64]
    known: dict[str, npt.NDArray[np.float64]]


def tried_tasks(rows: Sequence[dict[str, Any]], facts: Path, out: Path) -> list[Tried]:
    """Those of which everything is known."""
    looked = {row["task"]: row for row in json_lines.read(facts)}
    scores: dict[str, dict[str, float]] = {}
    for row in rows:
        if row["multiple"] == 1.0 and row["seed"] == SEEDS[0]:
            scores.setdefault(row["task"], {})[row["way"]] = 100 * row["score"]
    sources = {row["task"]: row["source"] for row in rows}
    found = []
    for task, own in sorted(scores.items()):
        path, key = sensitivity_file(out, task, SEEDS[0], "start"), f"{task}@{IMAGES}"
        if {"uniform", *HALVES} <= set(own) and path.exists() and key in looked:
            thirds = np.log(np.array(_shares_of_blocks(path)).reshape(3, 4).sum(axis=1))
            own_facts = looked[key]
            hidden = np.subtract(own_facts["in_place"], own_facts["linear_probe"])
            known = {
                "fisher": thirds,
                "facts": np.array([hidden[-1], hidden[0] - hidden[2], own_facts["linear_probe"]]),
            }
            known["both"] = np.concatenate([known["fisher"], known["facts"]])
            gains = np.array([own[way] - own["uniform"] for way in HALVES])
            found.append(Tried(task, sources[task], gains, known))
    return found


def learned_gains(tasks: Sequence[Tried], known: str | None) -> npt.NDArray[np.float64]:
    """Points above everywhere, of the place that tasks of other sources speak for: ridge regressions from what is known
    to what early and late gain, or their means where nothing is known. Everywhere is taken where neither promises.
    """
    found = []
    for task in tasks:
        others = [other for other in tasks if other.source != task.source]
        gains = np.stack([other.gains for other in others])
        expected = gains.mean(axis=0)
        if known is not None:
            numbers = np.stack([other.known[known] for other in others])
            mean, spread = numbers.mean(axis=0), numbers.std(axis=0) + 1e-9
            ridge = RidgeCV(np.logspace(-1, 3, 13)).fit((numbers - mean) / spread, gains)
            expected = ridge.predict([(task.known[known] - mean) / spread])[0]
        best = int(np.argmax(expected))
        found.append(task.gains[best] if expected[best] > 0 else 0.0)
    return np.array(found)


def _learned_table(rows: list[dict[str, Any]], facts: Path, out: Path) -> str:
    tasks = tried_tasks(rows, facts, out)
    if len({task.source for task in tasks}) < 3:
        return "Not enough tasks have been tried yet."
    ways = {
        "what gained most on average elsewhere": learned_gains(tasks, None),
        "learned from the Fisher's shares by thirds of the depth": learned_gains(tasks, "fisher"),
        "learned from the facts in place": learned_gains(tasks, "facts"),
        "learned from both": learned_gains(tasks, "both"),
        "whoever knew": np.array([max(0.0, *task.gains) for task in tasks]),
    }
    lines = []
    for name, gains in ways.items():
        found = mean_over_sources(gains, [task.source for task in tasks])
        lines.append([name, f"{found.value:+.1f}", f"{found.low:+.1f} to {found.high:+.1f}", f"{gains.min():+.1f}"])
    return table([f"place, on {len(tasks)} tasks", "points above everywhere", "95% interval", "worst task"], lines)


def _shares_of_blocks(sensitivity: Path) -> list[float]:
    """Each block's share of the Fisher that is saved in a file."""
    shares = task2vec.Sensitivity.load(sensitivity).shares
    return [sum(v for n, v in shares.items() if n.startswith(f"blocks.{b}.")) for b in range(12)]


def _fisher_table(rows: list[dict[str, Any]], out: Path) -> str:
    """The share of each block, in percent, of the first seed's draw."""
    groups = {row["task"]: row["group"] for row in rows}
    lines = []
    for task in sorted(groups, key=lambda task: (groups[task], task)):
        path = sensitivity_file(out, task, SEEDS[0], "start")
        if path.exists():
            lines.append([task, groups[task], *(f"{100 * share:.1f}" for share in _shares_of_blocks(path))])
    return table(["task", "group", *(f"block {b}" for b in range(12))], lines)


def _formulas() -> str:
    lines = [
        [f"`{name}`", " ".join((rule.__doc__ or "").split("\n\n")[0].split())] for name, rule in adapters.RULES.items()
    ]
    return table(["rule", "weight w of a place, in proportion to which parameters are shared"], lines)


PAGE = """# Where to put the parameters

This page is written by `python benchmarks/placement_page.py`.

The Fisher of the backbone that will be tuned says, on the target's own images and labels and before anything is tuned,
how much each layer's weights matter. Does LoRA do better where it is large? Rules of placement are compared at equal
numbers of trainable parameters on ViT-tiny (ImageNet-21k, 96 pixels): {tasks} tasks, {images} training images, {seeds}
seeds, {epochs} epochs, {trainings} trainings so far. A seed draws the images, the order and the initial weights.

## The rules

{formulas}

m: the Fisher's mass in a place, summed over all weights of its layers; n: these weights; c: trainable parameters of an
adapter of size 1 there. Sizes are whole: the budget goes step by step to the place that is furthest behind its share
(`adapters/placement/budget.py`), and is never exceeded.

SPT: [He et al. 2023](https://arxiv.org/abs/2303.08566); GPS: [Zhang et al. 2023](https://arxiv.org/abs/2312.10136);
FISH mask: [Sung et al. 2021](https://arxiv.org/abs/2111.09839); AdaLoRA:
[Zhang et al. 2023](https://arxiv.org/abs/2303.10512), through PEFT.

## Against the same rank everywhere

Points of test accuracy above LoRA of one rank at the same parameters (the multiple of those of rank 8), the mean over
tasks with its 95% interval (bootstrap over their sources), and the worst task; how many pairs of trainings.

{differences}

## What the task's own Fisher adds

{own}

Against the same rank everywhere, seed by seed. The seeds differ by more than the intervals over tasks allow for: trust
the mean over them, and no single one.

{each_seed}

The Fisher's shares hardly differ between tasks (the last table): most lies in the first five blocks, whatever the task.
So a part of what is gained is this network's, whose early blocks want more ranks than its late ones, and comes without
any measurement (`early`, or other tasks' Fisher); the rest is the task's own.

## Fewer and more parameters

What the Fisher's mass is worth beside the same rank everywhere at the same number of parameters stands in the first
table. Where that number is not that of rank 8, it was trained on fewer tasks with one seed. Beside rank 8:

{other_budgets}

## Every task, at the parameters of rank 8

Mean test accuracy in percent of the same rank everywhere, and how many points the other ways are above it, on average
over the seeds that were trained both ways ({by_seed}).

{accuracies}

## Learned from other tasks

LoRA early, late or everywhere, as tasks of other sources speak for it: is what the Fisher says of a task worth knowing,
and are the facts in place (`selection.facts_of`)? Whoever knew all scores would pick the best of three of one seed,
noise included, so that nobody can reach the last row.

{learned}

## Is the start the right moment?

What is called Fisher's mass above is `start`: measured on all {images} images, before training, at labels that the
classifier draws. How many of the 96 ranks (8 for each block) would another measurement put into other blocks? None
moves many; what they would gain was trained for `labels` alone, which is SPT's criterion.

{measurements}

## What the measurement costs

{cost}

One process of one thread measured and trained LoRA for an epoch in turns. `few` reads {few} of the images, or two of
each class if there are more classes: as `placement="mass"` does when it tunes.

## The Fisher by block

Shares of the whole in percent, on the images of the first seed.

{fisher}
"""


if __name__ == "__main__":
    typer.run(write)
