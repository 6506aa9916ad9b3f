"""Image files in a folder or a zip: which there are, and how to read one."""

from __future__ import annotations

import dataclasses
import os
import zipfile
from collections import Counter
from collections.abc import Sequence
from functools import partial
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from PIL import Image

from task2vec.errors import TaskError
from task2vec.images import PLUGINS, image_extensions, open_image
from task2vec.tasks.sources import ImageSource, OpenedPerProcess

LEFT_BEHIND = frozenset({"thumbs.db", "desktop.ini"})  # by file browsers; as hidden files, they are not even counted


class Names(NamedTuple):
    """What lies in a folder or zip; all sorted.

    Attributes:
        files: The names of all files, relative to it.
        links: Links that are passed over as what they lead to is among the files.
        empty: Folders in which nothing visible lies.
    """

    files: list[str]
    links: list[str]
    empty: list[str]


class Files:
    """Files by their names, relative to a folder or zip."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def read(self, name: str) -> bytes:
        """The bytes of a file."""
        return (self.path / name).read_bytes()

    def sizes(self, names: Sequence[str]) -> list[int]:
        """The bytes that files have; 0 of one that is not there."""
        return [_size(self.path / name) for name in names]

    def names(self) -> Names:
        """What there is to read."""
        return _walk(self.path)


class ZipFiles(Files):
    """Files in a zip, which every process opens once. Nothing is extracted; reads may come from any thread."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self._archive = OpenedPerProcess(partial(zipfile.ZipFile, path))

    def read(self, name: str) -> bytes:
        """The bytes of a member."""
        return self._archive.get().read(name)

    def sizes(self, names: Sequence[str]) -> list[int]:
        """The bytes that members have; 0 of one that is not there."""
        known = {member.filename: member.file_size for member in self._archive.get().infolist()}
        return [known.get(name, 0) for name in names]

    def names(self) -> Names:
        """What there is to read; no links."""
        members = self._archive.get().infolist()
        files = {member.filename for member in members if not member.is_dir()}  # the last of a name counts
        inhabited = {str(folder) for name in files if not _is_hidden(name) for folder in PurePosixPath(name).parents}
        folders = {member.filename.rstrip("/") for member in members if member.is_dir()}
        return Names(sorted(files), [], sorted(folders - inhabited))


@dataclasses.dataclass(frozen=True)
class FileImages(ImageSource):
    """Images in files, in the order of their names."""

    files: Files
    names: tuple[str, ...]

    def __call__(self, index: int) -> Image.Image:
        """Decode file `index`."""
        name = self.names[index]
        return open_image(lambda: self.files.read(name), str(self.files.path / name))

    def files_of(self, indices: npt.NDArray[np.int64]) -> list[tuple[str, int]]:
        """Names, relative to the folder or zip, and bytes."""
        names = [self.names[i] for i in indices]
        return list(zip(names, self.files.sizes(names), strict=True))


@dataclasses.dataclass(frozen=True)
class Listing:
    """What lies in a folder or zip.

    Attributes:
        files: How to read it.
        images: Names of the image files, sorted.
        skipped: Names of the other files, and of `links`; hidden ones left out.
        links: Names of links to what is read anyway.
        empty: Names of folders in which nothing visible lies.
    """

    files: Files
    images: tuple[str, ...]
    skipped: tuple[str, ...]
    links: tuple[str, ...] = ()
    empty: tuple[str, ...] = ()


def list_images(path: Path) -> Listing:
    """The image files below a folder or in a zip, by their endings.

    Raises:
        TaskError: nothing is there, or no image; says what is there instead.
    """
    if not path.exists():
        raise TaskError(f"there is no folder or zip at {path}; check the path")
    try:
        files = Files(path) if path.is_dir() else ZipFiles(path)
        names, links, empty = ([name for name in some if not _is_hidden(name)] for some in files.names())
    except (zipfile.BadZipFile, OSError) as error:
        raise TaskError(f"{path} is neither a folder nor a zip of one ({error})") from error
    known = image_extensions()
    images = tuple(name for name in names if _ending(name) in known)
    skipped = tuple(name for name in names if _ending(name) not in known)
    if not images:
        raise TaskError(f"no images under {path}; {_remedy(skipped)}")
    return Listing(files, images, tuple(sorted((*skipped, *links))), tuple(links), tuple(empty))


def _remedy(skipped: Sequence[str]) -> str:
    plugin = plugin_for(skipped)
    if plugin is not None:
        return plugin
    endings = Counter(map(_ending, skipped))
    found = ", ".join(f"{count} {ending or 'without an ending'}" for ending, count in endings.most_common(3))
    there = f" (it holds {found})" if found else ""
    return f"expected files such as CLASS/001.jpg or CLASS/001.png{there}"


def plugin_for(skipped: Sequence[str]) -> str | None:
    """What to install for the photographs among files that were passed over; None if there are none."""
    endings = Counter(map(_ending, skipped))
    plugin = next((ending for ending in endings if ending in PLUGINS), None)
    if plugin is None:
        return None
    return f"Pillow opens its {endings[plugin]} {plugin} files once {PLUGINS[plugin]} is installed and registered"


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0


def _ending(name: str) -> str:
    return PurePosixPath(name).suffix.lower()


def _is_hidden(name: str) -> bool:
    """Whether it is a file, or in a folder, that editors, file browsers and archivers leave behind."""
    path = PurePosixPath(name)
    return path.name.lower() in LEFT_BEHIND or any(part.startswith((".", "__MACOSX")) for part in path.parts)


def _walk(root: Path) -> Names:
    """What lies in a folder.

    Links are followed once: not into a folder that is read anyway, nor in a circle, nor to a file that is below the
    folder itself. Those that lead nowhere are files that cannot be read.
    """
    names: list[str] = []
    empty: list[Path] = []
    again: list[Path] = []
    visited: set[tuple[int, int]] = set()
    pending: list[Path] = [root]
    linked: list[Path] = []  # folders
    links: list[Path] = []  # files
    real: set[tuple[int, int]] = set()
    while pending or linked:
        folder = pending.pop() if pending else linked.pop(0)  # links wait until all folders of their own are read
        status = folder.stat()
        if (status.st_dev, status.st_ino) in visited:
            if folder.resolve() not in folder.parent.resolve().parents and not folder.samefile(folder.parent):
                again.append(folder)  # and no circle
            continue
        visited.add((status.st_dev, status.st_ino))
        with os.scandir(folder) as found:
            entries = sorted(found, key=lambda e: e.name)
            if folder != root and all(_is_hidden(entry.name) for entry in entries):
                empty.append(folder)
            for entry in entries:
                path = folder / entry.name
                if entry.is_symlink() and not path.exists():  # or in a circle: it is named when somebody reads it
                    names.append(path.relative_to(root).as_posix())
                elif entry.is_dir():
                    (linked if entry.is_symlink() else pending).append(path)
                elif entry.is_symlink():
                    links.append(path)
                else:
                    status = entry.stat()
                    real.add((status.st_dev, status.st_ino))
                    names.append(path.relative_to(root).as_posix())
    for path in links:
        status = path.stat()
        if (status.st_dev, status.st_ino) in real:
            again.append(path)
        else:
            names.append(path.relative_to(root).as_posix())
    passed_over, without_files = (sorted(p.relative_to(root).as_posix() for p in paths) for paths in (again, empty))
    return Names(sorted(names), passed_over, without_files)
