"""`task2vec evaluate`: how good recommendations from a store are."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from adapters import DEFAULT_BACKBONE
from selection.cli import options as o
from selection.cli.output import print_json
from selection.evaluation import evaluate_store
from selection.evaluation.page import tables, write_page
from selection.evidence.library import mean_features


def evaluate(
    store: o.Store = None,
    backbone: o.Backbone = DEFAULT_BACKBONE,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Folder for evaluation.md and its figures.")] = None,
    as_json: o.Json = False,
) -> None:
    """Leave out each source in turn, and compare what every recommender would have chosen."""
    found = evaluate_store(o.open_store(store), backbone, mean_features(backbone) if store is None else None)
    if out is not None:
        write_page(found, out)
    if as_json:
        print_json(found.summary())
    else:
        typer.echo(tables(found))
