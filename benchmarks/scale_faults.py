"""What does a grid on a cluster survive? Every fault is caused for real, and what was lost is counted.

.ci/with-postgres python benchmarks/scale_faults.py workers     a worker that runs a trial is killed
.ci/with-postgres python benchmarks/scale_faults.py machines    one of three Ray nodes on loopback is killed
.ci/with-postgres python benchmarks/scale_faults.py databases   PostgreSQL is stopped at once and started again
.ci/with-postgres python benchmarks/scale_faults.py drivers     the command that runs the grid is killed, and run again
.ci/with-postgres python benchmarks/scale_faults.py all         each of them 20 times

`task2vec trials run` runs real trials of a small grid all the while, on PostgreSQL as `.ci/with-postgres` starts it.
What was counted is kept for docs/scale.md, which `scale.py page` writes.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, NamedTuple

import numpy as np
import sqlalchemy as sql
import typer
from PIL import Image

from selection import TaskStore, Trial

RESULTS = Path(__file__).parent / "results" / "scale_faults.json"
BETWEEN = 2  # trials that are stored between two faults
SPARE = 8  # trials that are left when the last fault is caused
COMMAND = "from selection.cli import main; main()"

os.environ.setdefault("RAY_raylet_start_wait_time_s", "300")  # a busy machine takes longer than Ray waits

Times = Annotated[int, typer.Option(help="how often the fault is caused")]
app = typer.Typer(add_completion=False, help=__doc__)


class Survived(NamedTuple):
    """What was counted of one kind of fault."""

    fault: str
    times: int
    trials: int  # that the grid has
    stored: int  # when the command had ended
    lost: int  # of those that were stored when a fault was caused
    twice: int  # stored more than once
    seconds: float


class Grid:
    """A running `task2vec trials run` on a cluster of loopback nodes, and what it stores.

    Args:
        folder: For the grid's files.
        times: Faults that it is going to live through.
        nodes: How many, of one CPU each.
    """

    def __init__(self, folder: Path, times: int, nodes: int) -> None:
        from ray.cluster_utils import Cluster

        self.name = f"fault{uuid.uuid4().hex[:8]}"
        self.trials = BETWEEN * times + SPARE
        self.folder, self.url = folder, new_database()
        self.store = TaskStore(self.url)
        self.cluster = Cluster()
        for _ in range(nodes):
            self.cluster.add_node(num_cpus=1, include_dashboard=False)
        paint(folder / "datasets" / self.name)
        seeds = list(range(self.trials))
        grid = f'folder = "datasets"\nseeds = {seeds}\nworkers = 0\n[[config]]\nmethod = "linear"\nepochs = 1\n'
        (folder / "grid.toml").write_text(grid)
        self.driver = self.start()

    def start(self) -> subprocess.Popen[bytes]:
        """Run the command; what it says is added to a file."""
        arguments = ["trials", "run", "grid.toml", "--store", self.url, "--ray-address", self.cluster.address]
        with (self.folder / "said").open("ab") as said:
            command = [sys.executable, "-c", COMMAND, *arguments]
            return subprocess.Popen(command, cwd=self.folder, stdout=said, stderr=said)

    def found(self) -> dict[tuple[str, int], Trial]:
        """The trials that are stored now."""
        return {(task.name, trial.seed): trial for task in self.store.tasks() for trial in task.trials}

    def workers(self) -> list[int]:
        """The processes that run a trial of this grid."""
        return [pid for pid, title in processes() if title.startswith(f"ray::{self.name}, linear")]

    def close(self) -> None:
        """End everything."""
        self.driver.kill()
        self.driver.wait()
        self.cluster.shutdown()
        self.store.close()


def survive(fault: str, times: int, cause: Callable[[Grid], None], nodes: int = 2) -> Survived:
    """Cause a fault again and again while a grid runs, and count what is left of what had been stored."""
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        grid = Grid(Path(folder), times, nodes)
        try:
            seen: dict[tuple[str, int], Trial] = {}
            for number in range(times):
                wait_for(lambda number=number: len(grid.found()) >= BETWEEN * number + 1, grid)
                time.sleep(random.uniform(0, 1))
                seen |= grid.found()
                cause(grid)
            if grid.driver.wait(timeout=600) != 0:
                raise RuntimeError((Path(folder) / "said").read_text())
            found = grid.found()
            lost = sum(found.get(key) != trial for key, trial in seen.items())  # one that ran again took other seconds
            with sql.create_engine(grid.url).connect() as connection:
                rows = connection.execute(
                    sql.text("SELECT count(*), count(DISTINCT (task_id, config, seed)) FROM trials")
                )
                stored, different = rows.one()
        finally:
            grid.close()
    survived = Survived(fault, times, grid.trials, stored, lost, stored - different, time.perf_counter() - start)
    typer.echo(json.dumps(survived._asdict()))
    known = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    RESULTS.write_text(json.dumps(known | {fault: survived._asdict()}, indent=1) + "\n")
    return survived


def wait_for(condition: Callable[[], bool], grid: Grid, seconds: float = 300) -> None:
    """Wait until something is so, while the command runs."""
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end or grid.driver.poll() not in (None, 0):
            raise RuntimeError((grid.folder / "said").read_text())
        time.sleep(0.2)


@app.command()
def workers(times: Times = 20) -> Survived:
    """Kill a process that runs a trial."""

    def cause(grid: Grid) -> None:
        wait_for(lambda: bool(grid.workers()), grid)
        with contextlib.suppress(ProcessLookupError, IndexError):
            os.kill(random.choice(grid.workers()), signal.SIGKILL)

    return survive("a worker that runs a trial is killed", times, cause)


@app.command()
def machines(times: Times = 20) -> Survived:
    """Kill all processes of one of three Ray nodes; another one joins."""

    def cause(grid: Grid) -> None:
        grid.cluster.remove_node(random.choice(list(grid.cluster.worker_nodes)), allow_graceful=False)
        grid.cluster.add_node(num_cpus=1)

    return survive("one of three Ray nodes is killed, and another joins", times, cause, nodes=3)


@app.command()
def databases(times: Times = 20) -> Survived:
    """Stop PostgreSQL at once, and start it again."""
    return survive("PostgreSQL is stopped at once and started again", times, lambda _: restart_postgres())


@app.command()
def drivers(times: Times = 20) -> Survived:
    """Kill the command, and run it again."""

    def cause(grid: Grid) -> None:
        grid.driver.kill()
        grid.driver.wait()
        grid.driver = grid.start()

    return survive("the command is killed and run again", times, cause)


@app.command(name="all")
def everything(times: Times = 20) -> None:
    """Cause every fault."""
    for cause in (workers, machines, databases, drivers):
        cause(times)


def processes() -> Iterator[tuple[int, str]]:
    """The processes of this machine, and what each calls itself."""
    for folder in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            if folder.name.isdecimal():
                yield int(folder.name), (folder / "cmdline").read_bytes().decode(errors="replace")


def restart_postgres() -> None:
    """Stop the server that `.ci/with-postgres` started without letting it finish anything, and start it again."""
    data = Path(os.environ["TASK2VEC_POSTGRES_DATA"])
    restart = ["pg_ctl", "-D", str(data), "-m", "immediate", "-w", "-l", "log", "restart"]
    as_postgres = ["runuser", "-u", "postgres", "--", "env", f"PATH={os.environ['PATH']}"]
    subprocess.run([*as_postgres, *restart], check=True, stdout=subprocess.DEVNULL, cwd=data.parent)


def new_database() -> str:
    """The URL of an empty database."""
    server = sql.create_engine(os.environ["TASK2VEC_POSTGRES"], isolation_level="AUTOCOMMIT")
    name = f"scale_{uuid.uuid4().hex}"
    with server.connect() as connection:
        connection.execute(sql.text(f"CREATE DATABASE {name}"))
    server.dispose()
    return server.url.set(database=name).render_as_string(hide_password=False)


def paint(folder: Path) -> None:
    """A data set of two classes of noise, one brighter than the other."""
    generator = np.random.default_rng(0)
    for split, count in (("train", 40), ("test", 8)):
        for label, name in enumerate(("dark", "light")):
            place = folder / split / name
            place.mkdir(parents=True)
            for i in range(count):
                pixels = generator.integers(0, 200, (32, 32, 3)) + 55 * label
                Image.fromarray(pixels.astype(np.uint8)).save(place / f"{i}.png")


if __name__ == "__main__":
    app()
