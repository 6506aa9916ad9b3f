"""What does the store survive? Every fault is caused for real, and what was lost is counted.

.ci/with-postgres python benchmarks/store_faults.py all    every row, then docs/benchmarks.md
python benchmarks/store_faults.py kills                    a writer killed at 200 random moments
python benchmarks/store_faults.py writers [URL]            8 processes that write 200 tasks each at once
python benchmarks/store_faults.py flips                    bytes flipped in embeddings and adapters
python benchmarks/store_faults.py full                     a full disk; mounts 3 MB of memory, so only as root
python benchmarks/store_faults.py restarts                 PostgreSQL stopped and started below a writer

Beside PostgreSQL as `.ci/with-postgres` starts it, whose data directory is named by TASK2VEC_POSTGRES_DATA.
"""

from __future__ import annotations

import multiprocessing
import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from pathlib import Path
from typing import Annotated, NamedTuple

import sqlalchemy as sql
import timm
import typer
from page import table, write_section

import adapters
from adapters import AdapterConfig
from selection import StoreError, TaskStore

sys.path.insert(0, str(Path(__file__).parents[1]))
from tests.selection.test_store import embedding, trial

KILLS, WRITERS, TASKS, ADAPTERS = 200, 8, 200, 20


class Count(NamedTuple):
    """A row of the table."""

    fault: str
    how_often: str
    found_afterwards: str


app = typer.Typer(add_completion=False, help=__doc__)
# Forked children need not import torch again, which would take most of a killed writer's life.
forking = multiprocessing.get_context("fork")


def counted(fault: str, how_often: str, found_afterwards: str) -> Count:
    """A row, which is printed at once."""
    typer.echo(f"{fault}: {how_often}: {found_afterwards}")
    return Count(fault, how_often, found_afterwards)


def tuned_adapters(folder: Path) -> list[Path]:
    """Adapters of different contents."""
    model = adapters.attach(timm.create_model("resnet18"), AdapterConfig("linear"), num_classes=2)
    for number in range(ADAPTERS):
        model.fc.bias.data.fill_(number)
        adapters.save(model, folder / str(number))
    return [folder / str(number) for number in range(ADAPTERS)]


def write_tasks(location: str, files: Path, name: str, count: int, sources: list[Path], said: int) -> None:
    """Add tasks with a trial and an adapter each, and more trials to a task that all share; say each that is done."""
    store = TaskStore(location, files=files)
    for i in range(count):
        store.add(embedding(f"{name} {i}", seed=i), trials=[trial(seed=i)], adapter=sources[i % len(sources)])
        os.write(said, f"{i}\n".encode())
        store.add_trials("shared", [trial(seed=hash((name, i)) % 2**31)])


@app.command()
def kills() -> Count:
    """Kill a writer again and again, and look for every write that it had said to be done."""
    acknowledged = lost = damaged = 0
    with tempfile.TemporaryDirectory() as folder:
        location, files = f"{folder}/tasks.db", Path(folder) / "files"
        sources = tuned_adapters(Path(folder) / "sources")
        TaskStore(location).add(embedding("shared"))
        for number in range(KILLS):
            readable, writable = os.pipe()
            arguments = (location, files, str(number), 10**6, sources, writable)
            writer = forking.Process(target=write_tasks, args=arguments)
            writer.start()
            os.close(writable)
            time.sleep(random.uniform(0.0, 0.3))
            os.kill(writer.pid or 0, signal.SIGKILL)
            writer.join()
            with os.fdopen(readable) as lines:
                done = [int(line) for line in lines]
            store = TaskStore(location, files=files)
            damaged += len(store.verify())
            acknowledged += len(done)
            lost += sum(not _is_there(store, f"{number} {i}", i) for i in done)
            store.close()
    return counted(
        "`kill -9` while tasks, trials and adapters are written",
        f"{KILLS} kills, {acknowledged} writes acknowledged",
        f"{lost} lost, {damaged} damaged",
    )


def _is_there(store: TaskStore, name: str, seed: int) -> bool:
    if name not in store:
        return False
    task = store.task(name)
    return task.trials == (trial(seed=seed),) and task.adapter is not None and (task.adapter / "adapter.json").exists()


@app.command()
def writers(
    location: Annotated[str, typer.Argument(help="a database by URL; a new SQLite file if not given")] = "",
) -> Count:
    """Eight processes write at once."""
    with tempfile.TemporaryDirectory() as folder:
        place = location or f"{folder}/tasks.db"
        sources = tuned_adapters(Path(folder) / "sources")
        store = TaskStore(place, files=Path(folder) / "files")
        store.add(embedding("shared"))
        store.close()
        silent = os.open(os.devnull, os.O_WRONLY)
        running = [
            forking.Process(target=write_tasks, args=(place, Path(folder) / "files", str(n), TASKS, sources, silent))
            for n in range(WRITERS)
        ]
        start = time.perf_counter()
        for process in running:
            process.start()
        for process in running:
            process.join()
        seconds = time.perf_counter() - start
        failed = sum(process.exitcode != 0 for process in running)
        stored, shared = len(store) - 1, len(store.task("shared").trials)
        whole = sum(_is_there(store, f"{n} {i}", i) for n in range(WRITERS) for i in range(TASKS))
        problems = len(store.verify())
        store.close()
    kind = "PostgreSQL" if location else "SQLite"
    return counted(
        f"{WRITERS} processes write {TASKS} tasks each at once, {kind}",
        f"{WRITERS * TASKS} tasks, as many trials of one shared task, {seconds:.0f} s",
        f"{stored} tasks, {whole} of them whole, {shared} shared trials, {failed} errors reached a caller, "
        f"{problems} damaged",
    )


@app.command()
def flips(count: int = 100) -> Count:
    """Flip one byte of a stored Fisher or of an adapter, and ask `verify`."""
    found = {"embedding": 0, "adapter": 0}
    with tempfile.TemporaryDirectory() as folder:
        sources = tuned_adapters(Path(folder) / "sources")
        for kind in found:
            for number in range(count):
                place = Path(folder) / f"{kind}{number}.db"
                store = TaskStore(place)
                store.add(embedding("birds", dimension=500), adapter=sources[0])
                store.close()
                if kind == "embedding":
                    connection = sqlite3.connect(place)
                    (blob,) = connection.execute("select fisher from embeddings").fetchone()
                    connection.execute("update embeddings set fisher = ?", [_flipped(blob)])
                    connection.commit()
                    connection.close()
                else:
                    (file,) = Path(f"{place}.adapters").glob("*/adapter.safetensors")
                    file.write_bytes(_flipped(file.read_bytes()))
                found[kind] += any("birds" in problem for problem in TaskStore(place).verify())
                shutil.rmtree(f"{place}.adapters")
    return counted(
        "one byte flipped in a stored embedding, in an adapter",
        f"{count} and {count} times",
        f"`verify` named {found['embedding']} and {found['adapter']}",
    )


def _flipped(content: bytes) -> bytes:
    changed = bytearray(content)
    changed[random.randrange(len(changed))] ^= 1 << random.randrange(8)
    return bytes(changed)


@app.command()
def full(megabytes: int = 3) -> Count:
    """Write until the disk is full, go on trying, make room, and write again."""
    refused = 0
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "none", folder], check=True)
        try:
            ballast = Path(folder) / "ballast"
            ballast.write_bytes(bytes(2**20))
            sources = tuned_adapters(Path(tempfile.mkdtemp()))
            store, done = TaskStore(Path(folder) / "tasks.db"), []
            for number in range(2000):
                try:
                    store.add(
                        embedding(str(number), seed=number),
                        trials=[trial(seed=number)],
                        adapter=sources[number % ADAPTERS],
                    )
                    done.append(number)
                except StoreError:
                    refused += 1
                    if refused == 50:
                        ballast.unlink()
                    if refused >= 100:
                        break
            lost = sum(not _is_there(store, str(number), number) for number in done)
            more = set(store.names()) - set(map(str, done))
            problems = len(store.verify())
            store.close()
        finally:
            subprocess.run(["umount", "--lazy", folder], check=True)
    return counted(
        "a full disk, then some room, then full again",
        f"{len(done)} tasks added, {refused} refused with a `StoreError`",
        f"{lost} lost, {len(more)} half written, {problems} damaged",
    )


@app.command()
def restarts(count: int = 5) -> Count:
    """Stop PostgreSQL at once while a writer writes, start it again, and look for what was said to be stored."""
    data = Path(os.environ["TASK2VEC_POSTGRES_DATA"])
    url = _new_database()
    store, done, refused = TaskStore(url), [], []
    finished = threading.Event()

    def write() -> None:
        number = 0
        while not finished.is_set():
            try:
                store.add(embedding(str(number), seed=number), trials=[trial(seed=number)])
                done.append(number)
            except StoreError:
                refused.append(number)
                time.sleep(0.05)
            number += 1

    writer = threading.Thread(target=write)
    writer.start()
    for _ in range(count):
        time.sleep(2)
        restart = ["pg_ctl", "-D", str(data), "-m", "immediate", "-w", "-l", "log", "restart"]
        as_postgres = ["runuser", "-u", "postgres", "--", "env", f"PATH={os.environ['PATH']}"]
        subprocess.run([*as_postgres, *restart], check=True, stdout=subprocess.DEVNULL, cwd=data.parent)
    time.sleep(2)
    finished.set()
    writer.join()
    names = set(store.names())
    lost = sum(str(number) not in names or store.task(str(number)).trials != (trial(seed=number),) for number in done)
    # The server may have stored what it could no longer confirm; such a task is whole or not there.
    halves = sum(len(store.task(name).trials) != 1 for name in names)
    problems = len(store.verify())
    store.close()
    return counted(
        "PostgreSQL stopped at once and started again below a writer",
        f"{count} times, {len(done)} tasks added, {len(refused)} refused with a `StoreError`",
        f"{lost} lost, {halves} half written, {problems} damaged",
    )


def _new_database() -> str:
    server = sql.create_engine(os.environ["TASK2VEC_POSTGRES"], isolation_level="AUTOCOMMIT")
    name = f"faults_{uuid.uuid4().hex}"
    with server.connect() as connection:
        connection.execute(sql.text(f"CREATE DATABASE {name}"))
    url = server.url.set(database=name).render_as_string(hide_password=False)
    server.dispose()
    return url


@app.command(name="all")
def everything() -> None:
    """Cause every fault and write the section of docs/benchmarks.md."""
    write([kills(), writers(), writers(_new_database()), flips(), full(), restarts()])


def write(rows: list[Count]) -> None:
    """The section of docs/benchmarks.md."""
    body = f"""Each fault is caused for real by the command; nothing is simulated. A write counts as acknowledged when
the call returned.

{table(["fault", "how often", "found afterwards"], rows)}

Further faults stand in the tests (`tests/selection/test_store.py`, `test_archive.py`): truncated databases, files
that are no store, a directory that cannot be written, a newer schema, a migration that fails half-way, and archives
with paths that climb out, links, bombs, pickles, NaN, negative Fishers and names of a megabyte."""
    write_section("faults", "Faults", ".ci/with-postgres python benchmarks/store_faults.py all", body)


if __name__ == "__main__":
    app()
