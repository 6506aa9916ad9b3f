"""Where a command may write its file: not over what it reads, a result's own files, or a file of another kind.

Writing again over what the same command wrote is fine, and so is an empty file.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

from safetensors import SafetensorError, safe_open

from adapters.checkpoint import METADATA
from adapters.run import TRAINING
from selection.errors import SelectionError
from selection.results.description import FILE
from selection.results.lock import WRITTEN
from selection.results.predictions import COLUMNS
from task2vec import Task2VecError, TaskEmbedding

OF_A_RESULT = (*WRITTEN, FILE, TRAINING)
MEASURED = {"task2vec", "sensitivity"}  # what headers of embeddings and of backbones' Fishers hold
START = 200  # bytes of a file that tell what it is
PICTURES = (".png", ".pdf", ".svg", ".jpg")  # endings of what can be drawn


def refuse_lost(path: str | Path, kind: str, *, read: str | Path | None = None) -> None:
    """Make sure that writing a file loses nothing but an earlier one of its kind.

    Args:
        path: What will be written.
        kind: One of `KINDS`.
        read: A file that it is made from.

    Raises:
        SelectionError: it is a folder, the file that is read, part of a result, or a file of another kind.
    """
    path = Path(path)
    if path.is_dir():
        raise SelectionError(f"{path} is a folder; give the file to write")
    if not path.exists():
        return
    refuse_source(path, read)
    if path.name in OF_A_RESULT and any((path.parent / name).exists() for name in (FILE, METADATA)):
        raise SelectionError(
            f"{path} belongs to the result in {path.parent}, which would be lost; give another file to write"
        )
    if path.stat().st_size and not KINDS[kind](path):
        raise SelectionError(f"{path} is there and is no {kind}; it would be lost, give another file to write")


def refuse_source(path: Path, read: str | Path | None) -> None:
    """Make sure that a file is not written over what it is made from.

    Raises:
        SelectionError: it would be.
    """
    if read is not None and path.exists() and Path(read).exists() and path.samefile(read):
        raise SelectionError(f"{path} is read, and would be lost; give another file to write")


def _ends_in(*endings: str) -> Callable[[Path], bool]:
    return lambda path: path.suffix.lower() in endings


def _is_embedding(path: Path) -> bool:
    try:
        TaskEmbedding.load(path)
    except Task2VecError:
        return False
    return True


def _are_weights(path: Path) -> bool:
    try:
        with safe_open(path, framework="numpy") as file:
            return not MEASURED.intersection(file.metadata() or {})
    except (SafetensorError, OSError):
        return False


def _are_predictions(path: Path) -> bool:
    start = _start(path)
    return start.startswith(",".join(COLUMNS).encode()) or bool(re.match(rb'\[\s*(\]|\{\s*"image")', start))


def _start(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(START)


KINDS: dict[str, Callable[[Path], bool]] = {
    "embedding": _is_embedding,
    "file of weights": _are_weights,
    "ONNX file": _ends_in(".onnx"),
    "program of torch's": _ends_in(".pt2"),
    "page": lambda path: _start(path).lower().startswith(b"<!doctype html"),
    "table of predictions": _are_predictions,
    "picture": _ends_in(*PICTURES),
}
"""What is written, and how an earlier one is told."""
