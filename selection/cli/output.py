"""What commands print: JSON for programs, tables for people."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import Any

import typer
from rich.console import Console
from rich.table import Table

from selection.recommendation.result import Recommendation
from task2vec import TaskEmbedding

RANKING_SHOWN = 10


def print_json(values: Any) -> None:
    """One JSON document on standard output."""
    typer.echo(json.dumps(values, indent=2))


def print_table(title: str, columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """A table on standard output; columns after the first are aligned to the right."""
    table = Table(title=title, title_justify="left", title_style="bold")
    for i, column in enumerate(columns):
        table.add_column(column, justify="right" if i else "left")
    for row in rows:
        table.add_row(*row)
    Console().print(table)


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
    }


def print_recommendation(recommendation: Recommendation) -> None:
    """A recommendation as two tables and a paragraph."""
    shown = recommendation.ranking[:RANKING_SHOWN]
    left = len(recommendation.ranking) - len(shown)
    print_table(
        "Recommended configurations, best first" + (f" ({left} more with --json)" if left else ""),
        ("configuration", "predicted", "80% between", "parameters", "seconds"),
        (
            (
                c.config.label,
                f"{c.predicted:.1%}" if recommendation.is_calibrated else "-",
                f"{c.interval[0]:.0%} and {c.interval[1]:.0%}" if recommendation.is_calibrated else "-",
                f"{c.parameters:,}",
                f"{c.seconds:.0f}",
            )
            for c in shown
        ),
    )
    print_table(
        "Because of these stored tasks",
        ("task", "distance", recommendation.config.label, "best there", "scored"),
        (
            (
                e.task,
                f"{e.distance:.3f}",
                share(e.score),
                e.best.label,
                f"{e.best_score:.1%}",
            )
            for e in recommendation.evidence
        ),
    )
    Console().print(recommendation.explain())


def share(value: float | None) -> str:
    """An accuracy as a percentage; a dash if it was not measured."""
    return "-" if value is None else f"{value:.1%}"


def print_unreadable(embedding: TaskEmbedding) -> None:
    """Say on standard error which images were left out."""
    for message in embedding.unreadable:
        typer.echo(f"left out: {message}", err=True)
