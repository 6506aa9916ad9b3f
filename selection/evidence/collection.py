"""A folder of data sets, each a folder or a zip of labelled images."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from selection.errors import SelectionError


def name_of(folder: Path) -> str:
    """What the task of a folder or zip is called."""
    return folder.stem if folder.suffix == ".zip" else folder.name


def data_sets_in(folder: Path, exclude: Sequence[str] = ()) -> dict[str, Path]:
    """Where the data sets of a folder lie, by name, in the order of their files; hidden ones are left alone.

    Args:
        folder: What holds them.
        exclude: Names of some to leave out.

    Raises:
        SelectionError: there are none, or two of one name.
    """
    paths = [path for path in sorted(folder.iterdir()) if path.is_dir() or path.suffix == ".zip"]
    paths = [path for path in paths if not path.name.startswith(".") and name_of(path) not in exclude]
    if not paths:
        raise SelectionError(f"{folder} holds no data sets; give a folder of folders or zips of labelled images")
    names = [name_of(path) for path in paths]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise SelectionError(f"two data sets of {folder} are called {twice}; rename one")
    return dict(zip(names, paths, strict=True))
