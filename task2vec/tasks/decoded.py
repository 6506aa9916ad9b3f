"""Images decoded once and kept, as uint8 at the sizes that are going to be asked for.

Decoding is what costs; a resize afterwards is cheap, but which size is kept decides who is served exactly. So each
image is decoded once and resized for each network that will read it: a probe of 32 px and a backbone of 224 px get
their own pixels, and the tensors made of them are those of the direct way, bit by bit. An image that is no larger than
its resized versions is kept as it is instead. Nothing is kept after a crop or anything random, so that training may
still augment.

Pixels are kept in memory up to a limit, beyond that in a temporary file, and beyond that not at all: such images are
decoded again each time.
"""

from __future__ import annotations

import dataclasses
import os
import tempfile
import weakref
from bisect import bisect_right
from functools import partial
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from task2vec.progress import Report
from task2vec.tasks.preprocessing import Resize
from task2vec.tasks.reading import read
from task2vec.tasks.room import Room
from task2vec.tasks.sources import ImageSource, OpenedPerProcess

Pixels = npt.NDArray[np.uint8]

SEGMENT = 2**24  # bytes of memory that are taken at a time
NOT_KEPT = -1  # the address of pixels that there was no room for
DECODED_AT_ONCE = 16  # images that a worker hands over together


class PixelStore:
    """Pixels by address: in memory first, then in a file that is removed with the store.

    A pickled copy carries the pixels in memory. It reads the file's pixels only on this machine and while the store
    exists; otherwise it has none of them.
    """

    def __init__(self, room: Room) -> None:
        self._room = room
        self._segments: list[Pixels] = []
        self._starts: list[int] = []  # address of each segment
        self._used = 0  # bytes of the last segment
        self._path: Path | None = None
        self._written = 0
        self._file: OpenedPerProcess[IO[bytes]] | None = None

    @property
    def in_memory(self) -> int:
        """Bytes that are kept in memory."""
        return sum(map(len, self._segments))

    def add(self, pixels: Pixels) -> int:
        """Keep some pixels; gives their address."""
        flat = pixels.reshape(-1)
        if not self._segments or self._used + len(flat) > len(self._segments[-1]):
            size = max(len(flat), min(SEGMENT, self._room.memory - self.in_memory))
            if self.in_memory + size > self._room.memory:
                return self._add_to_file(flat)
            self._starts.append(self._starts[-1] + len(self._segments[-1]) if self._segments else 0)
            self._segments.append(np.empty(size, np.uint8))
            self._used = 0
        address = self._starts[-1] + self._used
        self._segments[-1][self._used : self._used + len(flat)] = flat
        self._used += len(flat)
        return address

    def get(self, address: int, size: int) -> Pixels | None:
        """The pixels at an address; None where they were in a file that is not here."""
        if address < self._room.memory:
            segment = bisect_right(self._starts, address) - 1
            start = address - self._starts[segment]
            return self._segments[segment][start : start + size]
        assert self._file is not None  # who has such an address has written it
        try:
            file, place = self._file.get(), address - self._room.memory
        except FileNotFoundError:
            return None
        if hasattr(os, "pread"):  # leaves the file's position alone, which threads share
            return np.frombuffer(os.pread(file.fileno(), size, place), np.uint8)
        file.seek(place)
        return np.frombuffer(file.read(size), np.uint8)

    def __getstate__(self) -> dict[str, Any]:
        """Without the memory that nothing was put into yet."""
        return vars(self) | {"_segments": [*self._segments[:-1], *(s[: self._used] for s in self._segments[-1:])]}

    def _add_to_file(self, flat: Pixels) -> int:
        """Beyond the memory, addresses are places in the file.

        It is read, not mapped: mapped pages would count as this process's memory and grow with the number of images.
        """
        if self._written + len(flat) > self._room.disk:
            return NOT_KEPT
        if self._path is None:
            handle, name = tempfile.mkstemp(prefix="task2vec-", suffix=".pixels")
            os.close(handle)
            self._path = Path(name)
            self._file = OpenedPerProcess(partial(_open, self._path))
            weakref.finalize(self, _remove, self._path, os.getpid())
        with self._path.open("ab") as file:
            file.write(flat.data)
        address = self._room.memory + self._written
        self._written += len(flat)
        return address


def _open(path: Path) -> IO[bytes]:
    return path.open("rb")


def _remove(path: Path, owner: int) -> None:
    if os.getpid() == owner:  # a worker's copy of the store goes earlier
        path.unlink(missing_ok=True)


@dataclasses.dataclass(frozen=True)
class Places:
    """Where one size of each image is kept: addresses `(N,)`, or `NOT_KEPT`; and rows and columns `(N, 2)`."""

    addresses: npt.NDArray[np.int64]
    shapes: npt.NDArray[np.int64]


@dataclasses.dataclass(frozen=True)
class DecodedImages(ImageSource):
    """The images of another source, kept at some sizes. What is not kept is asked of the source again."""

    source: ImageSource
    store: PixelStore
    originals: Places
    sizes: dict[str, Places]
    in_memory: bool

    def __call__(self, index: int) -> Image.Image:
        """The original of image `index`."""
        return self._kept(self.originals, index) or self.source(index)

    def resized(self, index: int, resize: Resize) -> Image.Image:
        """As it is kept, or made of the original."""
        places = self.sizes.get(resize.key)
        found = None if places is None else self._kept(places, index)
        return found or resize(self(index))

    def keeps(self, resize: Resize) -> bool:
        """Whether images were decoded for this size."""
        return resize.key in self.sizes

    def _kept(self, places: Places, index: int) -> Image.Image | None:
        address = int(places.addresses[index])
        if address == NOT_KEPT:
            return None
        rows, columns = places.shapes[index].tolist()
        pixels = self.store.get(address, rows * columns * 3)
        return None if pixels is None else Image.fromarray(pixels.reshape(rows, columns, 3))


@dataclasses.dataclass(frozen=True)
class _Decode:
    """Image number to the pixels that are worth keeping: the original, or one for each resize."""

    images: ImageSource
    resizes: tuple[Resize, ...]

    def __call__(self, index: int) -> tuple[Pixels | None, list[Pixels]]:
        image = self.images(index)
        resized = [np.asarray(resize(image)) for resize in self.resizes]
        if image.width * image.height * 3 > sum(pixels.size for pixels in resized):
            return None, resized
        # One that lies in memory already need not lie there twice.
        return (np.empty((0, 0, 3), np.uint8) if self.images.in_memory else np.asarray(image)), []


def decode(
    images: ImageSource, count: int, resizes: tuple[Resize, ...], room: Room, *, workers: int, report: Report
) -> tuple[DecodedImages, dict[int, str]]:
    """Decode each image once.

    Args:
        images: Where they come from.
        count: How many there are.
        resizes: The sizes that will be asked for.
        room: How much may be kept.
        workers: Processes that decode; 0 to do it here.
        report: Told how far it is.

    Returns:
        The images, and a message for each that cannot be decoded.
    """
    store = PixelStore(room)
    originals = Places(np.full(count, NOT_KEPT), np.zeros((count, 2), np.int64))
    sizes = {resize.key: Places(np.full(count, NOT_KEPT), np.zeros((count, 2), np.int64)) for resize in resizes}

    def keep(places: Places, index: int, pixels: Pixels) -> None:
        if pixels.size:
            places.addresses[index], places.shapes[index] = store.add(pixels), pixels.shape[:2]

    bad: dict[int, str] = {}
    for start, batch, failures in read(_Decode(images, resizes), count, DECODED_AT_ONCE, list, workers=workers):
        bad |= {start + offset: message for offset, message in failures.items()}
        offsets = (i for i in range(start, start + DECODED_AT_ONCE) if i - start not in failures)
        for index, (original, resized) in zip(offsets, batch, strict=False):
            if original is not None:
                keep(originals, index, original)
            for places, pixels in zip(sizes.values(), resized, strict=False):
                keep(places, index, pixels)
        report("Decoding images", min(start + DECODED_AT_ONCE, count), count)
    kept = originals.addresses != NOT_KEPT
    kept |= np.logical_and.reduce([places.addresses != NOT_KEPT for places in sizes.values()])
    kept[list(bad)] = True  # they will be left out
    return DecodedImages(images, store, originals, sizes, images.in_memory or bool(kept.all())), bad
