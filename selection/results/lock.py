"""One training a folder: the second one that is started says so, be it at the same time or afterwards."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path

from filelock import SoftFileLock, Timeout

from adapters.checkpoint import METADATA, TENSORS
from adapters.run import METRICS, TRAINING
from selection.errors import SelectionError
from selection.results.description import FILE
from selection.results.folder import CARD, CURVES
from selection.results.result import MERGED

NAME = "in-use.lock"
WRITTEN = (CARD, CURVES, MERGED, METADATA, TENSORS, METRICS)  # names that somebody else's files may have


def alone_in(folder: str | Path | None, *, several: bool = False) -> AbstractContextManager[None]:
    """Inside the context, no other process writes a result to the folder; without a folder nothing is done.

    A file in the folder names the process and its machine. One that a killed process left behind is taken over on the
    same machine.

    Args:
        folder: Where a run will write.
        several: Whether it makes tries, each in a folder of its own inside.

    Raises:
        SelectionError: another process is at work there, or another run's result or somebody's file is there, which
            would be lost.
    """
    return nullcontext() if folder is None else _locked(Path(folder), several)


def refuse_among_images(folder: str | Path | None, images: str | Path) -> None:
    """Make sure that a run writes nothing into the folder that it reads: its figures would be images of a new class.

    Args:
        folder: Where it will write; None for nowhere.
        images: The data set, a folder or a file.

    Raises:
        SelectionError: it would.
    """
    read = Path(images).resolve()
    if folder is None or not read.is_dir() or not Path(folder).resolve().is_relative_to(read):
        return
    below = Path(folder).resolve().relative_to(read)
    if not any(part.startswith(".") for part in below.parts):  # what is hidden is not read
        raise SelectionError(
            f"{folder} lies in {images}, where the figures written there would be read as images; give another folder"
        )


@contextmanager
def _locked(folder: Path, several: bool) -> Iterator[None]:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / NAME
    lock = SoftFileLock(path, timeout=0)
    try:
        lock.acquire()
    except Timeout as error:
        raise SelectionError(
            f"{folder} is in use by {_owner(path)}; wait for it, give another folder, or remove {path} if that "
            "process is gone"
        ) from error
    try:
        _check_that_nothing_is_lost(folder, several)
        yield
    finally:
        lock.release()


def _check_that_nothing_is_lost(folder: Path, several: bool) -> None:
    """Make sure that what the run would write over is its own: it goes on with it, or makes it again."""
    if any(folder.glob("try-*")) if several else (folder / TRAINING).exists():
        return
    if (folder / FILE).exists():
        raise SelectionError(
            f"{folder} holds an earlier result, which would be lost; give another folder, or remove it"
        )
    lost = [name for name in WRITTEN if (folder / name).exists()]
    if lost:
        raise SelectionError(f"{folder} holds {' and '.join(lost)}, which would be lost; give another folder")


def _owner(path: Path) -> str:
    try:
        process, host, *_ = path.read_text().split()
    except (OSError, ValueError):
        return "another process"
    return f"process {process} on {host}"
