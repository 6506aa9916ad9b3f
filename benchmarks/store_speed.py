"""How fast is the store? A million tasks on disk, ten thousand in memory, all pairs of a thousand.

python benchmarks/store_speed.py all FOLDER         every row, then docs/benchmarks.md; needs 8 GB of disk
python benchmarks/store_speed.py fill FOLDER        a store of a million resampled tasks
python benchmarks/store_speed.py index FOLDER       its search index
python benchmarks/store_speed.py search FOLDER      queries of it, from a process that only opened it
python benchmarks/store_speed.py peers FOLDER       its sketches in faiss and usearch (pip install faiss-cpu usearch)
python benchmarks/store_speed.py small              exact queries of 10,000 tasks
python benchmarks/store_speed.py pairs              all pairs of 1,000 tasks against a loop over scipy's cosine
"""

from __future__ import annotations

import dataclasses
import json
import resource
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import sqlalchemy as sql
import typer
from measure import times
from page import table, write_section
from scipy.spatial.distance import cosine as scipy_cosine

import selection
from selection.store.index import SearchIndex
from selection.store.schema import EmbeddingRow
from task2vec import Classifier, Layer, TaskEmbedding, distance_matrix
from task2vec.distances.logarithms import logs
from task2vec.distances.sketch import ESTIMATES, Sketch

DIMENSION = 1000
NOISE = 0.2  # of a log Fisher between halves of 900 images of one task (cifar10 0.20, gtsrb 0.16)
SIZE = 0.3  # of the log of the overall size
QUERIES = 50
NEAREST = 10

app = typer.Typer(add_completion=False, help=__doc__)
Folder = Annotated[Path, typer.Argument(help="where the large store is made")]


def resampled(count: int, seed: int, block: int = 5000) -> Iterator[np.ndarray]:
    """Fishers `(block, D)` like those of the shipped library: every layer of a task mixes that of three real ones.

    Mixed are logarithms, with weights of a Dirichlet distribution, each layer with its own; then every filter gets
    the noise that another sample of the same images would bring, and each task a size.
    """
    embeddings = selection.load_library().embeddings()
    generator = np.random.default_rng(0)
    real = logs(np.stack([e.fisher for e in embeddings]).astype(np.float64))
    columns = np.sort(generator.choice(real.shape[1], DIMENSION, replace=False))
    layer = np.repeat(np.arange(len(embeddings[0].layers)), [part.num_filters for part in embeddings[0].layers])
    parts = [np.flatnonzero(layer[columns] == number) for number in np.unique(layer[columns])]
    real = real[:, columns].astype(np.float32)
    generator = np.random.default_rng(seed)
    for start in range(0, count, block):
        size = min(block, count - start)
        chosen = generator.integers(len(real), size=(size, 3))
        log = NOISE * generator.standard_normal((size, DIMENSION), dtype=np.float32)
        log += SIZE * generator.standard_normal((size, 1), dtype=np.float32)
        for part in parts:
            weights = generator.dirichlet(np.ones(3), size).astype(np.float32)
            mixing = np.zeros((size, len(real)), np.float32)
            for k in range(3):
                np.add.at(mixing, (np.arange(size), chosen[:, k]), weights[:, k])
            log[:, part] += mixing @ real[:, part]
        yield np.exp(log)


def tasks(count: int, seed: int, name: str) -> Iterator[TaskEmbedding]:
    """Resampled tasks as embeddings of a probe without a shipped reference."""
    head = Classifier(np.ones((2, 8), np.float32), np.zeros(2, np.float32), 0.1, 0.9)
    layers = (Layer("resampled", DIMENSION),)
    first = TaskEmbedding(
        np.ones(DIMENSION, np.float32), layers, "resampled", "resampled", "montecarlo", 100, ("a", "b"), head, name
    )
    number = 0
    for block in resampled(count, seed):
        for fisher in block:
            yield dataclasses.replace(first, fisher=fisher, task=f"{name} {number}")
            number += 1


@app.command()
def fill(folder: Folder, count: int = 1_000_000) -> None:
    """Load a large store; seconds go to FOLDER/fill.json."""
    folder.mkdir(parents=True, exist_ok=True)
    store = selection.TaskStore(folder / "tasks.db")
    waiting, start = 0.0, time.perf_counter()

    def timed() -> Iterator[TaskEmbedding]:
        nonlocal waiting
        source = tasks(count, 1, "task")
        while True:
            before = time.perf_counter()
            found = next(source, None)
            waiting += time.perf_counter() - before
            if found is None:
                return
            yield found

    store.add_many(timed())
    loading = time.perf_counter() - start - waiting  # making the embeddings is not the store's work
    facts = {"count": count, "loading": loading}
    (folder / "fill.json").write_text(json.dumps(facts))
    typer.echo(facts)


@app.command()
def index(folder: Folder) -> None:
    """Build the large store's index with its first query; seconds and memory go to FOLDER/index.json."""
    shutil.rmtree(folder / "tasks.db.index", ignore_errors=True)
    store = selection.TaskStore(folder / "tasks.db")
    start = time.perf_counter()
    store.nearest(next(tasks(1, 2, "query")), 1)
    facts = {"indexing": time.perf_counter() - start, "memory": _peak()}
    (folder / "index.json").write_text(json.dumps(facts))
    typer.echo(facts)


@app.command()
def search(folder: Folder) -> None:
    """Time, memory and recall of queries, to FOLDER/search.json."""
    store = selection.TaskStore(folder / "tasks.db")
    queries = list(tasks(QUERIES, 2, "query"))
    start = time.perf_counter()
    store.nearest(queries[0], NEAREST)
    facts: dict[str, Any] = {"opening": time.perf_counter() - start}
    found: dict[str, list[list[str]]] = {}
    for distance in ESTIMATES:
        taken, found[distance] = [], []
        for query in queries:
            start = time.perf_counter()
            near = store.nearest(query, NEAREST, distance=distance)
            taken.append(time.perf_counter() - start)
            found[distance].append([neighbour.name for neighbour in near])
        facts[distance] = {"median": statistics.median(taken), "slowest": max(taken)}
    facts["memory"] = _peak()
    for distance, true in _brute_force(store, queries).items():
        hits = [len(set(a) & set(b)) / NEAREST for a, b in zip(found[distance], true, strict=True)]
        facts[distance]["recall"] = statistics.mean(hits)
    (folder / "search.json").write_text(json.dumps(facts))
    typer.echo(facts)


def _brute_force(store: selection.TaskStore, queries: list[TaskEmbedding]) -> dict[str, list[list[str]]]:
    """The names of the tasks that are nearest to each query, all of them compared."""
    targets = np.stack([query.fisher for query in queries])
    centre = _index(store).projection.centre
    best = {name: (np.full((NEAREST, QUERIES), np.inf), np.zeros((NEAREST, QUERIES), int)) for name in ESTIMATES}
    with store._reading() as session:
        query = sql.select(EmbeddingRow.id, EmbeddingRow.fisher).execution_options(yield_per=2000)
        for part in session.execute(query).partitions(2000):
            ids = np.array([row.id for row in part])
            fisher = np.frombuffer(b"".join(row.fisher for row in part), "<f4").reshape(len(part), -1)
            for name, (distances, who) in best.items():
                new = distance_matrix(fisher, name, targets, reference=centre)
                both = np.concatenate([distances, new])
                order = np.argsort(both, axis=0)[:NEAREST]
                everyone = np.concatenate([who, np.broadcast_to(ids[:, None], new.shape)])
                best[name] = np.take_along_axis(both, order, 0), np.take_along_axis(everyone, order, 0)
        # Embeddings were loaded in the order of their names' numbers.
        first = session.scalar(sql.select(sql.func.min(EmbeddingRow.id))) or 0
    return {name: [[f"task {i - first}" for i in column] for column in who.T] for name, (_, who) in best.items()}


def _index(store: selection.TaskStore) -> SearchIndex:
    """The index that the store's last search used."""
    (found,) = store._search._indexes.values()
    return found


@app.command()
def peers(folder: Folder) -> None:
    """The same sketches searched by faiss and usearch, to FOLDER/peers.json: build, query, memory and recall."""
    import faiss
    import usearch.index

    store = selection.TaskStore(folder / "tasks.db")
    queries = list(tasks(QUERIES, 2, "query"))
    store.nearest(queries[0], 1)
    searched = _index(store)
    sketch = Sketch.concatenate(searched.sketches)
    unit = sketch.projected / np.linalg.norm(sketch.projected, axis=1, keepdims=True)
    projected = np.concatenate([searched.projection.sketch([-1], q.fisher[None]).projected for q in queries])
    wanted = projected / np.linalg.norm(projected, axis=1, keepdims=True)
    candidates = 1000
    true = [set(np.argpartition(-unit @ w, NEAREST)[:NEAREST].tolist()) for w in wanted]
    width = unit.shape[1]

    def flat() -> Any:
        return lambda w: np.argpartition(-(unit @ w), candidates)[:candidates]

    def faiss_index(description: str) -> Any:
        built = faiss.index_factory(width, description, faiss.METRIC_INNER_PRODUCT)
        built.train(unit[:: max(1, len(unit) // 100_000)])
        built.add(unit)
        if description.startswith("IVF"):
            built.nprobe = 32
        elif description.startswith("HNSW"):
            built.hnsw.efSearch = candidates
        return lambda w: built.search(w[None], candidates)[1][0]

    def hnsw() -> Any:
        built = usearch.index.Index(ndim=width, metric="ip", dtype="f16")
        built.expansion_search = candidates
        built.add(np.arange(len(unit)), unit)
        return lambda w: built.search(w, candidates).keys

    rows = {}
    ways = {
        "matrix product (ours)": flat,
        "faiss Flat": lambda: faiss_index("Flat"),
        "faiss SQ8": lambda: faiss_index("SQ8"),
        "faiss IVF1024,Flat": lambda: faiss_index("IVF1024,Flat"),
        "usearch HNSW f16": hnsw,
    }
    for name, build in ways.items():
        start = time.perf_counter()
        find = build()
        building = time.perf_counter() - start
        taken, hits = [], []
        for query, expected in zip(wanted, true, strict=True):
            start = time.perf_counter()
            answer = find(query)
            taken.append(time.perf_counter() - start)
            hits.append(len(expected & set(np.asarray(answer).tolist())) / NEAREST)
        rows[name] = [building, statistics.median(taken), statistics.mean(hits)]
        typer.echo((name, rows[name]))
        (folder / "peers.json").write_text(json.dumps({"width": width, "rows": rows}))


@app.command()
def small() -> dict[str, float]:
    """Median seconds of exact queries of 10,000 tasks in memory."""
    store = selection.TaskStore()
    store.add_many(tasks(10_000, 3, "task"))
    query = next(tasks(1, 2, "query"))
    ways = {name: lambda name=name: store.nearest(query, NEAREST, distance=name) for name in ESTIMATES}
    found = {name: statistics.median(taken) for name, taken in times(ways).items()}
    typer.echo(found)
    return found


@app.command()
def pairs() -> dict[str, float]:
    """Seconds of all pairs of 1,000 tasks, and of the loop that is usually written."""
    fisher = next(resampled(1000, 4)).astype(np.float64)

    def loop(rows: int = 60) -> None:
        for i in range(rows):
            for j in range(i + 1, rows):
                total = fisher[i] + fisher[j]
                scipy_cosine(fisher[i] / total, fisher[j] / total)

    taken = times({"compiled": lambda: _discard(distance_matrix(fisher)), "loop": loop})
    whole = statistics.median(taken["loop"]) * (1000 * 999) / (60 * 59)
    ours = statistics.median(taken["compiled"])
    found = {"compiled": ours, "loop": whole, "ratio": whole / ours}
    typer.echo(found)
    return found


@app.command(name="all")
def everything(folder: Folder) -> None:
    """Measure every row and write the section of docs/benchmarks.md."""
    for command in ("fill", "index", "search", "peers"):
        if not (folder / f"{command}.json").exists():  # each in a process of its own, for its memory
            subprocess.run([sys.executable, __file__, command, str(folder)], check=True)
    write(folder, small(), pairs())


def write(folder: Path, exact: dict[str, float], all_pairs: dict[str, float]) -> None:
    """The section of docs/benchmarks.md."""
    filled, built, searched, compared = (
        json.loads((folder / f"{name}.json").read_text()) for name in ("fill", "index", "search", "peers")
    )
    rows = [
        [
            f"`{name}`",
            f"{1000 * searched[name]['median']:.0f} ms",
            f"{1000 * searched[name]['slowest']:.0f} ms",
            f"{searched[name]['recall']:.3f}",
            f"{1000 * exact[name]:.0f} ms",
        ]
        for name in ESTIMATES
    ]
    beside = [[name, f"{b:.0f} s", f"{1000 * q:.1f} ms", f"{r:.3f}"] for name, (b, q, r) in compared["rows"].items()]
    body = f"""A store of {filled["count"]:,} tasks of {DIMENSION:,} dimensions in SQLite, {QUERIES} queries of the
{NEAREST} nearest, on two cores. The tasks are resampled from the shipped library: each layer of a new task mixes the
log Fisher of that layer in three real ones, with noise of {NOISE} in every filter, as another sample of the same images
would bring.

{table(["distance", "a million: median", "slowest", f"recall at {NEAREST}", "10,000, exact: median"], rows)}

- Bulk load: {filled["count"] / filled["loading"]:,.0f} embeddings a second. Building the index:
  {built["indexing"]:.0f} s, once.
- Opening the store and its index in a new process, first query included: {searched["opening"]:.1f} s. Such a process
  takes at most {searched["memory"] / 2**30:.2f} GiB, one that builds the index
  {built["memory"] / 2**30:.2f} GiB.
- All pairs of 1,000 tasks, `cosine`: {1000 * all_pairs["compiled"]:.0f} ms; a Python loop over scipy's cosine
  {all_pairs["loop"]:.1f} s, {all_pairs["ratio"]:.0f} times as long (each pair once; extrapolated from 60 tasks).

How sketches are searched, here of {compared["width"]} numbers: 1,000 candidates of {filled["count"]:,} by their cosine,
and how many of the ten nearest sketches are among them.

{table(["index", "build", "query", "recall"], beside)}

The product with all sketches is what the store does: it takes a small part of a query's time (the rest reads and
compares the candidates), serves all three distances with the same numbers, needs no training, and takes additions and
removals at once. An inverted file is faster, but for one of the distances only."""
    write_section("store", "The task store", "python benchmarks/store_speed.py all FOLDER", body)


def _discard(_: object) -> None:
    return None


def _peak() -> int:
    """The most bytes that this process had in memory."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


if __name__ == "__main__":
    app()
