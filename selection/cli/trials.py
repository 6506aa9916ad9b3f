"""`task2vec trials`: fill a store with trials."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

import selection
from selection.cli import options as o
from selection.cli.output import print_facts, print_json
from selection.jobs.failures import LOGS

app = typer.Typer(help="Run trials of many configurations on many tasks.", no_args_is_help=True, add_completion=False)


@app.callback()
def trials() -> None:
    """Run trials of many configurations on many tasks."""


@app.command()
def run(
    grid: Annotated[Path, typer.Argument(help="What to run, in TOML; see selection.Grid.")],
    store: Annotated[str, typer.Option("--store", help="Where tasks and trials go: a file, or the URL of a database.")],
    device: o.Device | None = None,
    precision: o.Precision | None = None,
    workers: o.Workers | None = None,
    ray: o.OnRay = False,
    ray_address: o.RayAddress = None,
    cpus: Annotated[float, typer.Option("--cpus-per-trial", help="CPUs of a trial on Ray, and its threads.")] = 1,
    gpus: Annotated[
        float | None,
        typer.Option("--gpus-per-trial", help="GPUs of a trial on Ray, or a share such as 0.25; 1 if there are any."),
    ] = None,
    memory: Annotated[
        float | None, typer.Option("--memory-per-trial", help="GB set aside for a trial on Ray; none if not given.")
    ] = None,
    logs: o.Logs = Path(LOGS),
    as_json: o.Json = False,
) -> None:
    """Tune every configuration of a grid on every task; a run that was stopped goes on where it was."""
    found = selection.Grid.from_file(grid)
    own = {"device": device, "autocast": precision, "workers": workers}
    given = {name: value for name, value in own.items() if value is not None}
    told = {field: str(getattr(found.compute, field)) for field in own} | given
    compute = o.compute_of(told["device"], told["autocast"], told["workers"])
    cluster = o.cluster_of(ray, ray_address, cpus, gpus, memory)
    with o.store_to_fill(store) as opened:
        selection.run_grid(found, opened, compute=compute, cluster=cluster, logs=logs)
        facts = {"store": store, "tasks": len(opened), "trials": sum(len(t.trials) for t in opened.tasks())}
    if as_json:
        print_json(facts)
    else:
        print_facts("Trials", facts)
