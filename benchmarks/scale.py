"""What does a cluster cost? Trials of no work, Ray's share of a long one, one worker and two, several nodes.

.ci/with-postgres python benchmarks/scale.py all         every row and docs/scale.md, but for `workers`
.ci/with-postgres python benchmarks/scale.py scheduling  1,000 trials of no work, scheduled and stored
python benchmarks/scale.py share                         Ray's share of trials of 10 s
python benchmarks/scale.py workers                       a grid on one worker and on two; needs two idle cores
python benchmarks/scale.py nodes                         jobs of no work on 1, 2 and 4 Ray nodes on loopback
python benchmarks/scale.py data                          a data set of 256 MB on its way to another Ray node
python benchmarks/scale.py page                          docs/scale.md from what was measured

Nodes on loopback are Ray nodes of one CPU each on this machine. `scale_faults.py` counts what is lost by faults.
"""

from __future__ import annotations

import dataclasses
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import ray
import typer
from page import DOCS, table
from ray.cluster_utils import Cluster as Nodes
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy
from scale_faults import RESULTS as FAULTS
from scale_faults import new_database, paint

import adapters
from adapters import AdapterConfig
from selection import Cluster, Grid, TaskStore, Trial, run_grid
from selection.jobs import Job, itself, running_on
from task2vec import Task, embed, load_probe

RESULTS = Path(__file__).parent / "results" / "scale.json"
PAGE = DOCS / "scale.md"
BEGIN, END = "<!-- measured: python benchmarks/scale.py page -->", "<!-- end -->"
TRIALS, TASKS = 1000, 10
LONG = 10.0  # seconds of a long trial
ROUNDS = 6
DATA = 256  # MB
NODES = (1, 2, 4)

app = typer.Typer(add_completion=False, help=__doc__)


def keep(name: str, **measured: Any) -> None:
    """Print what was measured, and keep it for the page."""
    known = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    known[name] = measured
    RESULTS.write_text(json.dumps(known, indent=1) + "\n")
    typer.echo(f"{name}: {json.dumps(measured)}")


def no_work(config: AdapterConfig, seed: int) -> Trial:
    """What a trial gives, without one."""
    backbone = adapters.BackboneId(adapters.DEFAULT_BACKBONE, "", "f" * 32)
    return Trial(config, backbone, 0.5, 0.5, 1000, 1.0, seed, 80, curve=((0.5, 1.0),) * 20)


def sleep(seconds: float, data: Any = None) -> float:
    """A job that takes its time, and none of the machine's."""
    time.sleep(seconds)
    return seconds


@contextmanager
def machine(cpus: int) -> Iterator[None]:
    """A Ray cluster of this machine alone."""
    ray.init("local", num_cpus=cpus, include_dashboard=False, log_to_driver=False, logging_level="warning")
    try:
        yield
    finally:
        ray.shutdown()


@contextmanager
def loopback(count: int) -> Iterator[None]:
    """A cluster of so many Ray nodes of one CPU on this machine."""
    nodes = Nodes()
    for _ in range(count):
        nodes.add_node(num_cpus=1, include_dashboard=False, object_store_memory=4 * DATA * 10**6)
    ray.init(address=nodes.address, log_to_driver=False, logging_level="warning")
    try:
        yield
    finally:
        ray.shutdown()
        nodes.shutdown()


def warm(runner: Any) -> None:
    """Start the workers, which load torch first."""
    for _ in runner.run(Job("warm", sleep, (2.0,)) for _ in range(8)):
        pass


@app.command()
def scheduling() -> None:
    """A thousand trials of no work on two workers, each stored on PostgreSQL as it comes."""
    with tempfile.TemporaryDirectory() as folder, machine(2):
        paint(Path(folder) / "noise")
        embedding = embed(Task.from_folder(Path(folder) / "noise"), load_probe())
        store = TaskStore(new_database())
        for n in range(TASKS):
            store.add(embedding, name=f"task {n}")
        config = AdapterConfig("linear")
        with running_on(Cluster()) as runner:
            warm(runner)
            jobs = [
                Job(f"task {n % TASKS}, {config.label}, seed {n}", no_work, (config, n), f"task {n % TASKS}")
                for n in range(TRIALS)
            ]
            start, storing = time.perf_counter(), 0.0
            for together in runner.run(jobs):
                before = time.perf_counter()
                store.add_trials_of([(job.about, trial) for job, trial in together])
                storing += time.perf_counter() - before
            seconds = time.perf_counter() - start
        stored = sum(len(task.trials) for task in store.tasks())
        store.close()
    keep("scheduling", trials=stored, seconds=seconds, storing=storing)


@app.command()
def share() -> None:
    """How much longer trials of ten seconds take on a cluster than they do; two at a time, with a data set each."""
    with machine(2), running_on(Cluster()) as runner:
        warm(runner)
        start = time.perf_counter()
        data = [runner.share("images", itself, np.zeros(10**7, np.uint8)) for _ in range(ROUNDS)]
        jobs = (Job(f"long {n}", sleep, (LONG, data[n // 2])) for n in range(2 * ROUNDS))
        assert [value for together in runner.run(jobs) for _, value in together] == [LONG] * 2 * ROUNDS
        seconds = time.perf_counter() - start
    keep("share", trials=2 * ROUNDS, seconds=seconds, work=ROUNDS * LONG, share=seconds / (ROUNDS * LONG) - 1)


@app.command()
def workers() -> None:
    """Trials a second of one grid on one worker and on two, of one thread each."""
    seconds = {}
    with tempfile.TemporaryDirectory() as folder:
        paint(Path(folder) / "datasets" / "noise")
        grid = Grid(Path(folder) / "datasets", (AdapterConfig("ssf", epochs=20),), seeds=tuple(range(8)))
        for cpus in (1, 2):
            with machine(cpus), running_on(Cluster()) as runner:
                warm(runner)
                store = TaskStore()
                few = dataclasses.replace(grid, seeds=grid.seeds[:2])
                run_grid(few, store, cluster=Cluster(), progress=False)  # embeds, and loads the rest
                start = time.perf_counter()
                run_grid(grid, store, cluster=Cluster(), progress=False)
                seconds[cpus] = time.perf_counter() - start
    keep("workers", one=seconds[1], two=seconds[2], times=seconds[1] / seconds[2])


@app.command()
def nodes() -> None:
    """Jobs of no work a second, on several Ray nodes."""
    rates = {}
    for count in NODES:
        with loopback(count), running_on(Cluster()) as runner:
            warm(runner)
            start = time.perf_counter()
            jobs = (Job(f"job {n}", sleep, (0.0,)) for n in range(TRIALS))
            finished = sum(len(together) for together in runner.run(jobs))
            rates[count] = finished / (time.perf_counter() - start)
    keep("nodes", rates=rates)


@app.command()
def data() -> None:
    """Seconds until a data set lies in the shared memory of another Ray node, and until a second job there has it."""
    with loopback(2):
        here = ray.get_runtime_context().get_node_id()
        there = next(node["NodeID"] for node in ray.nodes() if node["NodeID"] != here)
        pinned = NodeAffinitySchedulingStrategy(there, soft=False)
        job = ray.remote(_size).options(scheduling_strategy=pinned)
        ray.get(job.remote(np.zeros(1, np.uint8)))
        first, again = [], []
        for _ in range(3):
            shared = ray.put(np.ones(DATA * 10**6, np.uint8))
            for seconds in (first, again):
                start = time.perf_counter()
                ray.get(job.remote(shared))
                seconds.append(time.perf_counter() - start)
    keep("data", megabytes=DATA, first=statistics.median(first), again=statistics.median(again))


def _size(value: np.ndarray) -> int:
    return len(value)


@app.command(name="all")
def everything() -> None:
    """Measure all but `workers`, and write the page."""
    scheduling()
    share()
    nodes()
    data()
    page()


@app.command()
def page() -> None:
    """Write what was measured, and what follows for larger clusters, into docs/scale.md."""
    found = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    text = PAGE.read_text()
    start, end = text.index(BEGIN) + len(BEGIN), text.index(END)
    PAGE.write_text(f"{text[:start]}\n\n{measured(found)}\n\n{text[end:]}")


def measured(found: dict[str, Any]) -> str:
    """The numbers there are."""
    parts = []
    rows = [row for name, row in ROWS.items() if name in found for row in row(found[name])]
    if rows:
        parts.append(table(["on one machine of two cores", ""], rows))
    if "scheduling" in found:
        parts += [
            "The command hands out one trial after the other, and stores together those that end together. How many "
            "trials at once keep it fully busy, by what one of them takes:",
            busiest(found["scheduling"]),
        ]
    if {"scheduling", "data"} <= set(found):
        parts += [
            f"And what a grid of 100 tasks of {found['data']['megabytes']} MB and 100 configurations needs on larger "
            "clusters, for trials of 10 minutes and one at once a node, calculated from the numbers above. Every node "
            "may come to run trials of every task; all data then leaves the machine of the command.",
            grown(found["scheduling"], found["data"]),
        ]
    if FAULTS.exists():
        counted = [
            [row["fault"], row["times"], f"{row['stored']} of {row['trials']}", row["lost"], row["twice"]]
            for row in json.loads(FAULTS.read_text()).values()
        ]
        head = ["fault, while a grid runs", "times", "trials stored in the end", "stored ones lost", "stored twice"]
        parts += [
            "Each of these faults was caused for real (`python benchmarks/scale_faults.py`); the trials that were "
            "stored when it was caused are looked for again when the command has ended.",
            table(head, counted),
        ]
    return "\n\n".join(parts)


ROWS: dict[str, Callable[[dict[str, Any]], list[list[str]]]] = {
    "scheduling": lambda m: [
        [f"{m['trials']:,} trials of no work, scheduled and stored on PostgreSQL", f"{m['seconds']:.1f} s"],
        ["of that, writing to the store", f"{m['storing']:.1f} s"],
    ],
    "share": lambda m: [[f"Ray's share of trials of {LONG:.0f} s, each pair with its own data", f"{m['share']:.1%}"]],
    "data": lambda m: [
        [f"{m['megabytes']} MB to another Ray node (loopback)", f"{m['first']:.2f} s"],
        ["the same for a second job on that node", f"{1000 * m['again']:.0f} ms"],
    ],
    "nodes": lambda m: [
        [f"jobs of no work a second, {count} Ray nodes of one CPU on loopback", f"{rate:.0f}"]
        for count, rate in m["rates"].items()
    ],
    "workers": lambda m: [["trials a second of two workers, over one (one thread each)", f"{m['times']:.2f}"]],
}
"""The rows of the table, by what was measured."""


def busiest(scheduled: dict[str, float]) -> str:
    """How many trials at once the command can keep up with."""
    per_trial = scheduled["seconds"] / scheduled["trials"]
    rows = [[f"{seconds:,} s", f"{int(seconds / per_trial):,}"] for seconds in (1, 10, 60, 600)]
    return table(["a trial takes", "trials at once, at most"], rows)


def grown(scheduled: dict[str, float], moved: dict[str, float]) -> str:
    """A grid of 10,000 trials of 10 minutes on clusters of several sizes."""
    per_trial = scheduled["seconds"] / scheduled["trials"]
    bandwidth = moved["megabytes"] / (moved["first"] - moved["again"])
    rows = []
    for count in (1, 10, 100, 10_000):
        trials, seconds, tasks = 10_000, 600, 100
        days = trials * seconds / min(count, trials) / 86400
        sent = tasks * moved["megabytes"] * min(count - 1, trials / tasks)  # as many as a task has trials
        busy = per_trial * trials / (days * 86400)
        hours = sent / bandwidth / 3600
        rows.append([f"{count:,}", f"{days:.2g}", f"{busy:.2%}", f"{sent / 1e6:.2g} TB", f"{hours:.2g}"])
    head = ["nodes", "days of the grid", "share of the command's time", "data sent", "hours of sending it at that rate"]
    return table(head, rows)


if __name__ == "__main__":
    app()
