"""The command `task2vec`: its sub-commands, and how errors reach the user."""

from __future__ import annotations

import sys

import typer

from adapters import AdapterError
from selection.cli import atlas, compare, demo, doctor, embed, evaluate, recommend, results, stores, trials, tune
from selection.errors import SelectionError
from task2vec import Task2VecError

app = typer.Typer(
    name="task2vec",
    help="Embed image datasets, find related ones, and tune the adapter that worked there.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
app.command()(demo.demo)
app.command()(embed.embed)
app.command()(compare.distance)
app.command()(compare.nearest)
app.command()(recommend.recommend)
app.command()(tune.tune)
app.command()(results.predict)
app.command()(results.validate)
app.command()(results.export)
app.command()(tune.merge)
app.command()(evaluate.evaluate)
app.command()(atlas.atlas)
app.command()(doctor.doctor)
app.add_typer(stores.app, name="store")
app.add_typer(trials.app, name="trials")


def main() -> None:
    """Run the command line: an error of ours is one sentence and exit status 2."""
    try:
        app()
    except (Task2VecError, AdapterError, SelectionError) as error:
        print(f"task2vec: {error}", file=sys.stderr)
        sys.exit(2)
    except OSError as error:  # a full disk, a missing folder, no permission
        print(f"task2vec: {error}; check the path and its permissions", file=sys.stderr)
        sys.exit(2)
