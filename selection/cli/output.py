"""What commands print: JSON for programs, tables for people."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from adapters import AdapterConfig
from selection.recommendation.result import Recommendation
from task2vec import TaskEmbedding

RANKING_SHOWN = 10
WIDTH = 100  # columns that a table takes at most
WORDS = {
    "accuracy_where_fitted": "accuracy on the images it was fitted on",
    "accuracy_cross_validated": "cross-validated accuracy",
    "norm": "difficulty (norm)",
    "dimension": "length of the embedding",
    "config": "configuration",
}
"""What facts are called on the terminal, where their names alone would not say it."""


def print_json(values: Any) -> None:
    """One JSON document on standard output."""
    typer.echo(json.dumps(values, indent=2))


def print_table(title: str, columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """A table on standard output, columns after the first aligned to the right; plain lines where no terminal reads it.

    On a terminal it takes at most 100 columns, and long cells are wrapped; elsewhere every row is one line.
    """
    console = Console(highlight=False)
    if not console.is_terminal:
        typer.echo(_plain(title, columns, [[*map(str, row)] for row in rows]))
        return
    table = Table(title=title, title_justify="left", title_style="bold")
    for i, column in enumerate(columns):
        table.add_column(column, justify="right" if i else "left", overflow="fold")
    for row in rows:
        table.add_row(*map(escape, row))
    console.print(table, width=min(console.width, WIDTH))


def _plain(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [columns, *rows] if any(columns) else rows
    widths = [max((len(line[i]) for line in lines), default=0) for i in range(len(columns))]
    texts = (
        "  ".join(
            cell.rjust(width) if i else cell.ljust(width)
            for i, (cell, width) in enumerate(zip(line, widths, strict=True))
        )
        for line in lines
    )
    return "\n".join([title, *(text.rstrip() for text in texts)])


def print_facts(title: str, facts: Mapping[str, Any]) -> None:
    """Names and values as a table; without what is a list, or is not known."""
    shown = {name: value for name, value in facts.items() if value is not None and not isinstance(value, list | dict)}
    print_table(
        title, ("", ""), ((WORDS.get(name, name.replace("_", " ")), _text(name, shown[name])) for name in shown)
    )


def _text(name: str, value: Any) -> str:
    """A value for people: shares as percentages, other numbers to three digits."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if not isinstance(value, float):
        return str(value)
    return f"{value:.1%}" if "accuracy" in name else short(value)


def short(value: float) -> str:
    """A number to three significant digits, without an exponent where it can be read without one."""
    if value != 0 and not 1e-4 <= abs(value) < 1e9:
        return f"{value:.2e}"
    digits = max(0, 2 - math.floor(math.log10(abs(value)))) if value else 0
    return f"{value:,.{digits}f}"


def describe_embedding(embedding: TaskEmbedding) -> dict[str, Any]:
    """What people and programs want to know of an embedding beside its numbers."""
    return {
        "task": embedding.task,
        "images": embedding.num_samples,
        "classes": len(embedding.classes),
        "dimension": len(embedding.fisher),
        "method": embedding.method,
        "norm": embedding.norm,
        "probe": embedding.probe_name,
        "probe_fingerprint": embedding.probe,
        "accuracy_where_fitted": embedding.classifier.accuracy,
        "accuracy_cross_validated": embedding.classifier.cross_validated,
        "converged": None if embedding.convergence is None else embedding.convergence.converged,
        "unmeasured": list(embedding.unmeasured),
        "unreadable": list(embedding.unreadable),
        "thumbnails": len(embedding.thumbnails),
    }


def print_recommendation(recommendation: Recommendation) -> None:
    """A recommendation as two tables and a paragraph."""
    shown = recommendation.ranking[:RANKING_SHOWN]
    left = len(recommendation.ranking) - len(shown)
    seconds = "seconds here" if recommendation.timed_here else "seconds"
    print_table(
        "Recommended configurations, best first" + (f" ({left} more with --json)" if left else ""),
        ("configuration", "predicted", "80% between", "parameters", seconds),
        (
            (
                brief(c.config),
                f"{c.accuracy:.1%}" if recommendation.is_calibrated else "-",
                f"{c.interval[0]:.0%} and {c.interval[1]:.0%}" if recommendation.is_calibrated else "-",
                f"{c.parameters:,}",
                f"{c.seconds:.0f}",
            )
            for c in shown
        ),
    )
    if recommendation.evidence:
        print_table(
            "Because of these stored tasks",
            ("task", "distance", "this one", "best there", "scored"),
            (
                (
                    e.task,
                    f"{e.distance:.3f}",
                    share(e.score),
                    brief(e.best),
                    f"{e.best_score:.1%}",
                )
                for e in recommendation.evidence
            ),
        )
    console = Console(markup=False, highlight=False)
    console.print(recommendation.explain(), width=min(console.width, WIDTH), soft_wrap=not console.is_terminal)


def brief(config: AdapterConfig) -> str:
    """A configuration in few columns: its method, and the settings that are not the method's own."""
    words = (_BRIEF.get(name, f"{name} {{}}").format(text) for name, text in config.told.items())
    return " ".join([config.method, ", ".join(words)]).strip()


_BRIEF = {
    "learning_rate": "lr {}",
    "epochs": "{} epochs",
    "batch_size": "batch {}",
    "bottleneck": "width {}",
    "weight_decay": "decay {}",
    "placement": "placed by {}",
    "sizes": "{}",
}


def share(value: float | None) -> str:
    """An accuracy as a percentage; a dash if it was not measured."""
    return "-" if value is None else f"{value:.1%}"


def print_unreadable(unreadable: Iterable[str]) -> None:
    """Say on standard error which images were left out, a sentence each."""
    for message in unreadable:
        typer.echo(f"left out: {message}", err=True)
