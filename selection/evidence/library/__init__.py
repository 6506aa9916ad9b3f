"""The library: a store shipped with the package, so that the first recommendation needs no training.

It lies here as numbers that people can read and compare: the embeddings in one safetensors file, the trials as JSON
lines. `benchmarks/library.py` makes both.
"""

from __future__ import annotations

import json
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors import safe_open
from safetensors.numpy import load_file
from safetensors.numpy import save as to_bytes

from selection.store import BackboneFacts, TaskStore, Trial
from task2vec import TaskEmbedding
from task2vec.embedding import embedding_from, embedding_parts

HERE = Path(__file__).parent
EMBEDDINGS, TRIALS, TASKS = HERE / "embeddings.safetensors", HERE / "trials.jsonl", HERE / "tasks.json"
FACTS = HERE / "facts.jsonl"
CALLED = "the shipped library"
SIZE_TAGS = ("100 images", "500 images")  # of tasks that were not taken whole
WARM_STARTS = HERE / "warm_starts.jsonl"


def load_library(location: str | Path | None = None) -> TaskStore:
    """A new store with the library's tasks in it, in memory or at `location`.

    Raises:
        StoreError: `location` cannot be used.
    """
    store = TaskStore(location, called=CALLED if location is None else None)
    trials, tasks = read_trials(TRIALS), json.loads(TASKS.read_text())
    embeddings, facts = read_embeddings(EMBEDDINGS), read_facts(FACTS)
    for embedding in embeddings:
        name = embedding.task
        store.add(embedding, trials=trials.get(name, ()), facts=facts.get(name, ()), **tasks[name])
    return store


def mean_features(backbone: str) -> dict[str, npt.NDArray[np.float32]]:
    """For each task with trials on a backbone the mean, over its images, of the features of the network that its
    embedding is of, `(d,)`: the bundled probe for the bundled backbone, otherwise the backbone itself.
    """
    file = mean_features_file(backbone)
    return load_file(file) if file.exists() else {}


def mean_features_file(backbone: str) -> Path:
    """Where they lie."""
    return HERE / f"mean_features.{backbone.split('.')[0]}.safetensors"


def library_warm_starts() -> list[dict[str, Any]]:
    """Test accuracies of tuning from an expert and from scratch."""
    return _lines(WARM_STARTS)


def _lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def read_embeddings(path: Path) -> list[TaskEmbedding]:
    """The embeddings in a file that `write_embeddings` wrote."""
    with safe_open(path, framework="numpy") as file:
        facts = json.loads(file.metadata()["task2vec"])
        return [
            embedding_from(
                {part: file.get_tensor(f"{task}/{part}") for part in ("fisher", "weight", "bias")}, facts[task], task
            )
            for task in facts
        ]


def write_embeddings(embeddings: list[TaskEmbedding], path: Path) -> None:
    """Embeddings of different tasks in one safetensors file."""
    tensors: dict[str, npt.NDArray[np.float32]] = {}
    facts = {}
    for embedding in embeddings:
        parts, facts[embedding.task] = embedding_parts(embedding)
        tensors |= {f"{embedding.task}/{part}": tensor for part, tensor in parts.items()}
    path.write_bytes(to_bytes(tensors, metadata={"task2vec": json.dumps(facts)}))


def read_facts(path: Path) -> dict[str, list[BackboneFacts]]:
    """What tasks look like to backbones, by task, from JSON lines."""
    facts = defaultdict(list)
    for values in _lines(path):
        facts[values.pop("task")].append(BackboneFacts.from_dict(values))
    return dict(facts)


def read_trials(path: Path) -> dict[str, list[Trial]]:
    """Trials by task, from JSON lines that each hold a trial and its task's name."""
    trials = defaultdict(list)
    if path.exists():
        for line in path.read_text().splitlines():
            task, trial = Trial.from_line(line)
            trials[task].append(trial)
    return dict(trials)
