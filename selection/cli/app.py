"""The command `task2vec`: its sub-commands, and how errors reach the user."""

from __future__ import annotations

import importlib.metadata
import os
import sys
import warnings
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from selection.cli.failures import UNEXPECTED, failure_of
from selection.cli.lazy import LazyCommand

TRACEBACK = "TASK2VEC_TRACEBACK"  # set it to see where an error came from

COMMANDS = {
    "demo": (
        "demo:demo",
        "Embed the digits, find their relatives, tune what worked there, and compare with a linear probe.",
    ),
    "embed": (
        "embed:embed",
        "Embed a labelled image folder and save the embedding; with --each, every data set in a folder.",
    ),
    "distance": ("compare:distance", "Print the distances between saved embeddings."),
    "nearest": ("compare:nearest", "List the stored tasks that are nearest to a task."),
    "recommend": ("recommend:recommend", "Recommend an adapter configuration for a task, with the evidence."),
    "tune": (
        "tune:tune",
        "Tune the recommended configuration (or the one given) on a task; a killed run resumes where it stopped.",
    ),
    "predict": ("results:predict", "Tell the classes of images."),
    "validate": (
        "results:validate",
        "Measure a tuned model on labelled images: accuracy, class by class, and calibration.",
    ),
    "export": ("results:export", "Write a tuned model for other programs, checked against the model itself."),
    "merge": ("tune:merge", "Fold a tuned adapter into its backbone and write the plain timm model's weights."),
    "evaluate": (
        "evaluate:evaluate",
        "Leave out each source in turn, and compare what every recommender would have chosen.",
    ),
    "atlas": (
        "atlas:atlas",
        "Write one page with a map of the stored tasks, a card for each, and their distances; it needs no network.",
    ),
    "doctor": ("doctor:doctor", "Say what this machine has: versions, devices, weights."),
    "store": ("stores:app", "Make, fill and look into task stores."),
    "trials": ("trials:app", "Run trials of many configurations on many tasks."),
}
"""By what the user types: where in this folder a command is, and the first sentence of its help."""


class Commands(TyperGroup):
    """The group of all commands."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        for name, (place, summary) in COMMANDS.items():
            self.commands[name] = LazyCommand(name, f"selection.cli.{place}", summary)


app = typer.Typer(name="task2vec", no_args_is_help=True, pretty_exceptions_enable=False)


def _print_version(asked: bool) -> None:
    if asked:
        typer.echo(f"task2vec {importlib.metadata.version('task2vec-select')}")
        raise typer.Exit


@app.callback(cls=Commands)
def task2vec(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Say the version.")
    ] = False,
) -> None:
    """Embed image datasets, find related ones, and tune the adapter that worked there."""


def _print_warning(message: Warning | str, category: type[Warning], *where: Any, **more: Any) -> None:
    """A warning as a sentence, without the line of code that gave it."""
    print(f"warning: {message}", file=sys.stderr)


def main() -> None:
    """Run the command line: what goes wrong is one sentence, and exit status 2, or 1 where nobody thought of it."""
    try:
        with warnings.catch_warnings():
            warnings.showwarning = _print_warning
            app()
    except Exception as error:
        if os.environ.get(TRACEBACK):
            raise
        failure = failure_of(error)
        hint = f"; set {TRACEBACK}=1 to see where" if failure.status == UNEXPECTED else ""
        print(f"task2vec: {failure.sentence}{hint}", file=sys.stderr)
        sys.exit(failure.status)
