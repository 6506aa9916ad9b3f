"""The evaluation of a store, as tables on the terminal and as docs/evaluation.md with its figures."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from selection.errors import SelectionError
from selection.evaluation.experts import expert_outcomes
from selection.evaluation.figures import plot_best_methods, plot_calibration, plot_regret
from selection.evaluation.protocol import (
    TRIES,
    Outcome,
    Target,
    leave_one_source_out,
    oracle,
    outcome_of_another_seed,
    outcomes,
    targets_of,
)
from selection.evaluation.rows import remedies, rows_of
from selection.evaluation.summary import covered, mean_of, of
from selection.evaluation.warm import WarmStarts, warm_starts_by_rate
from selection.library import library_costs, library_experts, library_warm_starts
from selection.recommenders import TrialTable
from selection.recommenders.registry import Array
from selection.store import TaskStore
from task2vec import TaskEmbedding
from task2vec.progress import reporting

LEARNED, BASELINE, ANOTHER_SEED = "gaussian_process", "best_fixed", "best by another seed"
REMEDY = "remedy: "
FEWEST_SOURCES = 3


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """Everything that was measured.

    Attributes:
        table: The trials.
        targets: The tasks that were targets.
        outcomes: Of every row.
        experts: Of every way to choose an expert; empty if there are no experts.
        warm: Tuning from an expert beside tuning from scratch, by learning rate; empty if there are no experts.
        cost: Seconds of embedding and recommending as a share of the grid's, by target; empty if not measured.
    """

    table: TrialTable
    targets: list[Target]
    outcomes: list[Outcome]
    experts: list[Outcome]
    warm: dict[float, WarmStarts]
    cost: dict[str, float]

    def rows(self) -> list[str]:
        """Names of the rows, in the order of the tables, without remedies."""
        return [row for row in dict.fromkeys(o.row for o in self.outcomes) if not row.startswith(REMEDY)]

    def summary(self) -> dict[str, Any]:
        """The means as plain values."""
        return {
            row: {
                str(tries): {
                    "regret": mean_of(of(self.outcomes, row, tries), lambda o: o.regret).value,
                    "lost": mean_of(of(self.outcomes, row, tries), lambda o: o.lost).value,
                }
                for tries in TRIES
                if of(self.outcomes, row, tries)
            }
            for row in self.rows()
        }

    def tables(self) -> str:
        """Regret, and what was measured before any try, in Markdown."""
        return f"{_regret_table(self)}\n\n{_zero_table(self)}"


def evaluate_store(
    store: TaskStore,
    backbone: str,
    mean_features: Mapping[str, npt.NDArray[np.float32]] | None = None,
    *,
    progress: bool = True,
) -> Evaluation:
    """Leave out each source in turn.

    Args:
        store: Tasks with trials. Where several probes embedded them, the one that embedded most of them counts.
        backbone: Whose trials count.
        mean_features: See `rows_of`.
        progress: Show progress on standard error.

    Raises:
        SelectionError: the trials come from too few sources.
    """
    stored = {task.name: task for task in store.tasks(with_trials=True)}
    embeddings = _of_one_probe([e for e in store.embeddings(method="montecarlo") if e.task in stored])
    table, targets = targets_of([(stored[e.task], e) for e in embeddings], backbone)
    found_sources = {target.facts.source for target in targets}
    if len(found_sources) < FEWEST_SOURCES:
        raise SelectionError(
            f"{store.location} has tasks with enough trials from {len(found_sources)} source(s), and leaving one out "
            f"needs {FEWEST_SOURCES}; run more trials, or name the tasks' sources"
        )
    if mean_features is not None and not all(task.name in mean_features for task in table.tasks):
        mean_features = None
    found: list[Outcome] = []
    with reporting(progress) as report:
        rows = rows_of(mean_features) | {REMEDY + name: learn for name, learn in remedies().items()}
        found += leave_one_source_out(table, targets, rows, lambda done, total: report("Sources left out", done, total))
    for target in targets:
        found += outcomes("oracle", oracle(target), target)
    found += [outcome for target in targets if (outcome := outcome_of_another_seed(target)) is not None]
    own = {e.task: e for e in embeddings}
    sources = {task.name: task.source for task in table.tasks}
    measured = [row for row in library_experts() if row["expert"] in own and f"{row['target']}@100" in own]
    small = {name.split("@")[0]: e for name, e in own.items() if name.endswith("@100")}
    seconds = {target.facts.name: float(target.seconds.sum()) for target in targets}
    warm = [row for row in library_warm_starts() if row["target"] in sources]
    return Evaluation(
        table,
        targets,
        found,
        expert_outcomes(measured, small, own, sources) if measured else [],
        warm_starts_by_rate(warm, sources),
        {row["task"]: row["seconds"] / seconds[row["task"]] for row in library_costs() if row["task"] in seconds},
    )


def _of_one_probe(embeddings: list[TaskEmbedding]) -> list[TaskEmbedding]:
    """Those of the probe that most of the tasks were embedded with: embeddings of two probes cannot be compared."""
    counts = Counter(embedding.probe for embedding in embeddings)
    return [e for e in embeddings if e.probe == counts.most_common(1)[0][0]]


def write_page(found: Evaluation, folder: Path) -> None:
    """evaluation.md and its figures."""
    folder.mkdir(parents=True, exist_ok=True)
    shown = [row for row in ("random", BASELINE, "nearest_vote", LEARNED, "... with noise") if row in found.rows()]
    plot_regret(found.outcomes, shown).savefig(folder / "evaluation-regret.png", dpi=110)
    plot_calibration(found.outcomes, LEARNED).savefig(folder / "evaluation-calibration.png", dpi=110)
    plot_best_methods(found.table, found.targets).savefig(folder / "evaluation-map.png", dpi=110)
    (folder / "evaluation.md").write_text(_page(found))


def _page(found: Evaluation) -> str:
    sources = sorted({target.facts.source for target in found.targets})
    twice = sum(len(target.by_seed) > 1 for target in found.targets)
    trials = int(np.isfinite(found.table.scores).sum())
    parts = [
        f"""# Evaluation

This page is written by `task2vec evaluate --out docs`.

Each of {len(found.targets)} tasks with at least 15 tried configurations is the target in turn. No task of its
source may be asked then ({len(sources)} sources; all `tin_` tasks are one). {trials:,} pairs of task and configuration
were tuned, {twice} of the tasks with two seeds. Normalised regret is 0 for the best configuration of the target's own
grid and 1 for its average one, by test accuracy. A recommendation sees no image of the target beyond its embedding;
tries reveal the validation accuracy that a user would see, of a fifth of the training images. In brackets: 95%
bootstrap intervals over sources.

## What each recommender's choice is worth

{_regret_table(found)}

`oracle` knows the scores; `best by another seed` is the best configuration of one run of the whole grid judged by
another run, so no choice can be expected to do better. The rows with dots are the Gaussian process with something else
in place of the embedding: the probe's mean features, nothing but the task's facts, or noise.

![Regret against tries](evaluation-regret.png)

## Before any try

{_zero_table(found)}

![Calibration](evaluation-calibration.png)
![Tasks coloured by their best method](evaluation-map.png)""",
        _sizes_section(found),
    ]
    if found.experts:
        parts.append(_experts_section(found))
    if found.warm:
        parts.append(_warm_section(found.warm))
    parts.append(_goals_section(found))
    parts += [_noise_section(found), _remedies_section(found)]
    return "\n\n".join(parts) + "\n"


def _regret_table(found: Evaluation) -> str:
    rows = []
    for row in found.rows():
        cells = [of(found.outcomes, row, tries) for tries in TRIES]
        rows.append([row, *(mean_of(c, lambda o: o.regret).text() if c else "-" for c in cells)])
    return _markdown(["regret after tries", *map(str, TRIES)], rows)


def _zero_table(found: Evaluation) -> str:
    rows = []
    for row in found.rows():
        own = of(found.outcomes, row, 0)
        inside = mean_of(own, covered).value
        rows.append(
            [
                row,
                mean_of(own, lambda o: o.lost).text(100, 1),
                mean_of(own, lambda o: o.correlation).text(),
                "-" if np.isnan(inside) else f"{inside:.0%}",
                "-" if np.isnan(inside) else f"{100 * mean_of(own, lambda o: o.width).value:.0f}",
            ]
        )
    return _markdown(
        ["", "accuracy lost, points", "rank correlation", "inside the 80% interval", "its width, points"], rows
    )


def _sizes_section(found: Evaluation) -> str:
    """Regret before any try, by the number of training images."""
    rows = []
    for label, small in (("100 images", True), ("all images", False)):
        chosen = [o for o in found.outcomes if ("@" in o.target) == small and o.tries == 0]
        by_row = {row: [o for o in chosen if o.row == row] for row in found.rows()}
        cells = [mean_of(by_row[row], lambda o: o.regret).text() if by_row[row] else "-" for row in (BASELINE, LEARNED)]
        rows.append([label, str(len(by_row[BASELINE])), *cells])
    return "## By size\n\nRegret before any try.\n\n" + _markdown(["", "targets", BASELINE, LEARNED], rows)


def _experts_section(found: Evaluation) -> str:
    rows = []
    for way in dict.fromkeys(o.row for o in found.experts):
        own = of(found.experts, way, 0)
        rows.append((mean_of(own, lambda o: o.regret), mean_of(own, lambda o: o.lost), way))
    rows.sort(key=lambda row: row[0].value)
    lines = [[way, regret.text(), lost.text(100, 1)] for regret, lost, way in rows]
    return f"""## Which expert for a target

{len({o.target for o in found.experts})} targets with 100 training images; the experts are SSF adapters tuned on all
images of the tasks of other sources (`benchmarks/experts.py`). A linear classifier is fitted on the chosen expert's
features. The share lost is 0 for the best expert and 1 for a random one.

{_markdown(["chosen by", "share lost", "accuracy lost, points"], lines)}"""


def _warm_section(warm: Mapping[float, WarmStarts]) -> str:
    rows = []
    for rate, found in warm.items():
        all_of_them = [f"{found.better:.0%}", f"{found.worse:.0%}", f"{100 * found.gain:+.1f}"]
        rows.append([f"learning rate {rate:g}", str(found.targets), *all_of_them])
        where = [f"{found.better_where_predicted:.0%}", f"{found.worse_where_predicted:.0%}"]
        where.append(f"{100 * found.gain_where_predicted:+.1f}")
        rows.append(["... where a gain was predicted", str(found.predicted), *(where if found.predicted else "---")])
    return f"""## Starting from an expert

SSF on 100 training images, from the adapter of the task that the asymmetric distance names, against the same from
scratch, two seeds each.

{_markdown(["", "targets", "better from the expert", "worse", "mean gain, points"], rows)}

A gain is predicted from the asymmetric distance by a straight line through the targets of the other sources."""


def _noise_section(found: Evaluation) -> str:
    """What repeating the trials says of the scores."""
    twice = [target for target in found.targets if len(target.by_seed) > 1]
    if not twice:
        return "## Noise\n\nNo target was tuned with two seeds, so nothing is known of the noise of its scores."
    noise = float(np.mean([within_runs(target.by_seed) for target in twice])) ** 0.5
    spread = max(0.0, float(np.mean([between_configurations(target.by_seed) for target in twice]))) ** 0.5
    again = mean_of(of(found.outcomes, ANOTHER_SEED, 0), lambda o: o.regret)
    same = {target.facts.name for target in twice}
    own = [o for o in found.outcomes if o.tries == 0 and o.target in same]
    fixed, learned = (mean_of([o for o in own if o.row == row], lambda o: o.regret) for row in (BASELINE, LEARNED))
    return f"""## Noise

On the {len(twice)} targets that were tuned with two seeds, repeating a trial moves its accuracy by {100 * noise:.1f}
points (standard deviation, what moves all configurations alike left out), on the very same images. The configurations
themselves differ by {100 * spread:.1f} points around their mean. Choosing by one whole run of the grid and judging by
the other has a regret of {again.text()}; on the same targets `{BASELINE}` has {fixed.text()} and `{LEARNED}`
{learned.text()}."""


def within_runs(by_seed: Array) -> float:
    """Variance of a score around its configuration's mean, from two seeds `(2, C)`, their common difference removed."""
    difference = by_seed[0] - by_seed[1]
    return float(np.var(difference, ddof=1) / 2)


def between_configurations(by_seed: Array) -> float:
    """Variance of the configurations' true scores: the covariance of two runs, whose noise is independent."""
    return float(np.cov(by_seed[0], by_seed[1])[0, 1])


def _remedies_section(found: Evaluation) -> str:
    rows = []
    for row in [LEARNED, *dict.fromkeys(o.row for o in found.outcomes if o.row.startswith(REMEDY))]:
        cells = [mean_of(of(found.outcomes, row, tries), lambda o: o.regret).text() for tries in TRIES]
        lost = mean_of(of(found.outcomes, row, 0), lambda o: o.lost).text(100, 1)
        rows.append([row.removeprefix(REMEDY), *cells, lost])
    head = ["regret after tries", *map(str, TRIES), "lost before any, points"]
    return f"""## What was tried

Changes to the Gaussian process, each learned and measured in the same way.

{_markdown(head, rows)}"""


def _goals_section(found: Evaluation) -> str:
    def regret(row: str, tries: int) -> float:
        return mean_of(of(found.outcomes, row, tries), lambda o: o.regret).value

    fixed = regret(BASELINE, 0)
    inside = mean_of(of(found.outcomes, LEARNED, 0), covered).value
    goals: list[tuple[str, str, bool]] = [
        (
            "no try: at most 0.6 of the best fixed configuration's regret",
            f"{regret(LEARNED, 0) / fixed:.2f}",
            regret(LEARNED, 0) <= 0.6 * fixed,
        ),
        (
            "three tries: at most 0.25 of it",
            f"{regret(LEARNED, 3) / fixed:.2f}",
            regret(LEARNED, 3) <= 0.25 * fixed,
        ),
        ("80% interval holds 75 to 85%", f"{inside:.0%}", 0.75 <= inside <= 0.85),
    ]
    if found.cost:
        cost = float(np.median(list(found.cost.values())))
        goals.append(("a recommendation costs at most 2% of the grid", f"{cost:.1%}", cost <= 0.02))
    if found.warm:
        better = max(warm.better for warm in found.warm.values())
        goals.append(("a warm start is better on 80% of targets", f"{better:.0%}", better >= 0.8))
    if found.experts:
        ways = {o.row for o in found.experts} - {"best expert", "random expert"}
        lost = {way: mean_of(of(found.experts, way, 0), lambda o: o.regret).value for way in ways}
        best = min(lost, key=lambda way: lost[way])
        goals.append(("expert selection loses at most 10%", f"{lost[best]:.0%} ({best})", lost[best] <= 0.1))
    rows = [[goal, value, "yes" if reached else "no"] for goal, value, reached in goals]
    return "## Goals\n\n" + _markdown(["goal", "measured", "reached"], rows)


def _markdown(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = ["| " + " | ".join(head) + " |", "| --- |" + " ---: |" * (len(head) - 1)]
    return "\n".join(lines + ["| " + " | ".join(row) + " |" for row in rows])
