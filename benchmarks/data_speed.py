"""What does reading photographs cost? Ratios of times and memory, measured in one run.

python benchmarks/data_speed.py all           every row, then docs/benchmarks.md
python benchmarks/data_speed.py decoding      decoding in several worker processes against one
python benchmarks/data_speed.py epoch         an epoch over JPEG files against the same epoch on tensors in memory
python benchmarks/data_speed.py memory        peak memory against the number of images
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Annotated

import timm
import torch
import typer
from measure import keep_memory, peak_of, ratio, times
from page import table, write_section
from photographs import CLASSES, SIZE, photographs
from torch.utils.data import TensorDataset

import adapters
from adapters import AdapterConfig
from adapters.data import transform_of

NETWORK = "vit_tiny_patch16_224"
MEMORY_IMAGES = (1, 2, 4)  # times the number of images
KEPT = 0.001  # of the machine's memory, for the rows of memory

app = typer.Typer(add_completion=False, help=__doc__)

Images = Annotated[int, typer.Option(help="photographs to read")]
Network = Annotated[str, typer.Option(help="timm model to train")]


def folder(count: int) -> Path:
    """Where the photographs lie, which later runs find again."""
    return Path(tempfile.gettempdir()) / f"task2vec-photographs-{count}"


@app.command()
def decoding(images: Images = 2000, rounds: int = 3) -> str:
    """Decoding in several worker processes against one."""
    task = photographs(folder(images), images)
    transform = transform_of(timm.create_model(NETWORK))

    def read(workers: int) -> None:
        for _ in task.batches(transform, 64, workers=workers):
            pass

    counts = [w for w in (1, 2, 4, 8) if w <= max(2, len(os.sched_getaffinity(0)))]
    taken = times({str(w): lambda w=w: read(w) for w in counts}, rounds)  # type: ignore[misc]
    rows = [
        [workers, f"{images / statistics.median(taken[workers]):.0f}", f"{ratio(taken['1'], taken[workers]):.2f}"]
        for workers in taken
    ]
    typer.echo(rows)
    return table([f"workers, {images} photographs", "photographs a second", "times one worker"], rows)


@app.command()
def epoch(images: Images = 500, network: Network = NETWORK, rounds: int = 3) -> str:
    """An epoch over JPEG files against the same epoch on tensors in memory."""
    task = photographs(folder(images), images)
    transform = transform_of(timm.create_model(network))
    whole = [batch for _, batch, _ in task.batches(transform, 64)]
    in_memory = TensorDataset(torch.cat(whole), torch.from_numpy(task.labels))
    ways = {"tensors": in_memory, "files": task}
    taken = [{name: _epochs(network, data) for name, data in ways.items()} for _ in range(rounds)]  # in turn
    first, later = (statistics.median(t["files"][i] / t["tensors"][1] for t in taken) for i in (0, 1))
    rows = [
        ["first epoch, decoding included", f"{first:.2f}"],
        ["later epochs", f"{later:.2f}"],
    ]
    typer.echo(rows)
    return table([f"{network}, {images} photographs", "epoch / epoch on tensors in memory"], rows)


def _epochs(network: str, data: object) -> tuple[float, float]:
    """Seconds of the first epoch with all that comes before it, and of the second one."""
    torch.manual_seed(0)
    model = adapters.attach(timm.create_model(network), AdapterConfig("full", epochs=2), CLASSES, seed=0)
    ends = [time.perf_counter()]
    adapters.fit(model, data, on_epoch=lambda *_: ends.append(time.perf_counter()), progress=False)
    return ends[1] - ends[0], ends[2] - ends[1]


@app.command()
def memory(images: Images = 1000) -> str:
    """Peak memory against the number of images, with a limit on what is kept."""
    counts = [images * factor for factor in MEMORY_IMAGES]
    for count in counts:
        photographs(folder(count), count)
    peaks = [
        int(
            subprocess.run(
                [sys.executable, __file__, "peak", str(count)], check=True, capture_output=True, text=True
            ).stdout
        )
        for count in counts
    ]
    rows = [
        [count, f"{peak / 2**20:.0f} MiB", f"{peak / peaks[0]:.2f}"] for count, peak in zip(counts, peaks, strict=True)
    ]
    typer.echo(rows)
    return table(["photographs", "peak memory", f"times that of {counts[0]}"], rows)


@app.command(hidden=True)
def peak(count: int) -> None:
    """Print the peak memory of decoding and reading so many photographs twice."""
    task = photographs(folder(count), count)
    transform = transform_of(timm.create_model(NETWORK))

    def read() -> None:
        kept = task.decoded(transform, memory=KEPT, workers=0)
        for _ in range(2):
            for _ in kept.batches(transform, 64, workers=0):
                pass

    sys.stdout.write(str(peak_of(read)))


@app.command("all")
def everything(threads: Annotated[int, typer.Option(help="CPU threads")] = 2) -> None:
    """Every row, then the section of docs/benchmarks.md."""
    keep_memory()
    torch.set_num_threads(threads)
    write(decoding(), epoch(), memory(), threads)


def write(decoded: str, trained: str, remembered: str, threads: int) -> None:
    """Write the section from its three tables."""
    version = torch.__version__.split("+")[0]
    body = f"""JPEG files of {SIZE[0]} x {SIZE[1]} pixels, read for {NETWORK}; torch {version}, {threads} CPU threads,
{len(os.sched_getaffinity(0))} cores.

Decoding in worker processes:

{decoded}

Training all weights, 64 images in a step. An image is decoded before the first epoch and kept after its resize:

{trained}

Decoding and then reading twice, with {KEPT:.1%} of the machine's memory to keep pixels in and the rest in a temporary
file. What grows is the list of names and labels:

{remembered}"""
    write_section("data", "Reading photographs", "python benchmarks/data_speed.py all", body)


if __name__ == "__main__":
    app()
