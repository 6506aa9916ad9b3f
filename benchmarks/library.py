"""Make the shipped library and its page from a folder of task zips.

python benchmarks/library.py embed datasets/     embeddings of every task under the bundled probe
python benchmarks/library.py trials datasets/    trials of every method on the bundled backbone; resumes
python benchmarks/library.py docs                docs/library.md from both
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

import selection
import task2vec
from adapters import DEFAULT_BACKBONE, AdapterConfig
from selection.library import EMBEDDINGS, TRIALS, write_embeddings
from task2vec.distances.reference import write_reference

PRETRAINING = "tin_base"  # what the bundled networks were trained on is never a target

CONFIGS = [
    AdapterConfig("linear", learning_rate=1e-2, epochs=30),
    AdapterConfig("linear", learning_rate=1e-1, epochs=30),
    AdapterConfig("ssf"),
    AdapterConfig("ssf", blocks=(3, 4, 5)),
    AdapterConfig("lora", rank=4),
    AdapterConfig("lora", rank=16),
    AdapterConfig("adaptformer", bottleneck=8),
    AdapterConfig("adaptformer", bottleneck=64),
]

app = typer.Typer(add_completion=False, help=__doc__)
Datasets = Annotated[Path, typer.Argument(help="folder of ImageFolder zips with train and test splits")]


def archives(datasets: Path) -> list[Path]:
    """The zips of the tasks, in alphabetical order."""
    return sorted(p for p in datasets.glob("*.zip") if p.stem != PRETRAINING)


@app.command()
def embed(datasets: Datasets, seed: int = 0) -> None:
    """Embed every task's training images, and take the mean log embedding as the reference of log_cosine."""
    probe = task2vec.load_probe()
    tasks = [task2vec.Task.from_folder(path) for path in archives(datasets)]
    embeddings = [task2vec.embed(task, probe, seed=seed, progress=True) for task in tasks]
    write_embeddings(embeddings, EMBEDDINGS)
    write_reference(probe.fingerprint, task2vec.mean_log_embedding(embeddings))


@app.command()
def trials(datasets: Datasets, only: str = "") -> None:
    """Tune every configuration on every task (or those named, with commas), one seed each."""
    wanted = only.split(",") if only else [path.stem for path in archives(datasets)]
    pairs = [
        (task2vec.Task.from_folder(path), task2vec.Task.from_folder(path, split="test"))
        for name in wanted
        for path in archives(datasets)
        if path.stem == name
    ]
    selection.run_grid(pairs, CONFIGS, TRIALS, backbone=DEFAULT_BACKBONE)


if __name__ == "__main__":
    app()
