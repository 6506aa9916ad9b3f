"""Images of one split that are copies of another's: a model that learned them by heart looks better than it is.

Only files of equal size are read, and no more than a bounded number of bytes: of a large data set, a sample.
"""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations
from typing import NamedTuple

from task2vec.errors import TaskWarning
from task2vec.images import UNREADABLE
from task2vec.tasks.files import FileImages, Files
from task2vec.tasks.sources import LabelledImages
from task2vec.tasks.split_names import TEST, TRAIN, VALIDATION

BUDGET = 128 * 2**20  # bytes of two splits that are read at most
OPENING = 2**16  # bytes that opening a file counts as


class SizedFiles(NamedTuple):
    """The image files of a split.

    Attributes:
        source: Where they come from, for people to read.
        files: How to read them.
        names: Their names by their sizes; without those that are not there.
    """

    source: str
    files: Files
    names: Mapping[int, Sequence[str]]

    @classmethod
    def of(cls, source: str, images: FileImages) -> SizedFiles:
        """Look how large the files are."""
        names: dict[int, list[str]] = {}
        for name, size in zip(images.names, images.files.sizes(images.names), strict=True):
            if size:
                names.setdefault(size, []).append(name)
        return cls(source, images.files, names)

    def digests(self, names: Sequence[str]) -> Iterator[tuple[str, bytes]]:
        """Those of the named files that can be read, with what tells their content."""
        for name in names:
            try:
                yield name, hashlib.sha256(self.files.read(name)).digest()
            except UNREADABLE:  # it is named where the image is decoded
                continue


def tell_of_copies(splits: Mapping[str, LabelledImages]) -> None:
    """Warn of image files that lie in two splits with the same content.

    Args:
        splits: What was read, by `train`, `val` and `test`.
    """
    found = [splits[role] for role in (TRAIN, VALIDATION, TEST) if role in splits]
    if len(found) < 2:
        return
    parts = [SizedFiles.of(own.source, own.images) for own in found if isinstance(own.images, FileImages)]
    for first, second in combinations(parts, 2):
        copies, compared_all = find_copies(first, second)
        if copies:
            name, copy = copies[0]
            least, are = "" if compared_all else "at least ", "is" if len(copies) == 1 else "are"
            warnings.warn(
                f"of the images of {second.source} {least}{len(copies)} {are} also in {first.source}, such as {copy}, "
                f"the same as {name}, so that what is measured on them says nothing of new images; remove them from "
                "one of both",
                TaskWarning,
                stacklevel=2,
            )


def find_copies(first: SizedFiles, second: SizedFiles) -> tuple[list[tuple[str, str]], bool]:
    """Names of files with the same content in both splits, one pair for each of the second that is a copy.

    Returns:
        The pairs, and whether all files that could be copies were compared.
    """
    shared = first.names.keys() & second.names.keys()
    left, compared_all = BUDGET, True
    copies: list[tuple[str, str]] = []
    for size in sorted(shared, key=lambda size: (len(first.names[size]) + len(second.names[size])) * _cost(size)):
        originals, others = first.names[size], second.names[size]
        most = left // _cost(size)
        if len(originals) + len(others) > most:
            compared_all = False
            originals, others = _spread(originals, most // 2), _spread(others, most // 2)
        left -= (len(originals) + len(others)) * _cost(size)
        known = {digest: name for name, digest in first.digests(originals)}
        copies += [(known[digest], name) for name, digest in second.digests(others) if digest in known]
    return copies, compared_all


def _cost(size: int) -> int:
    return max(size, OPENING)


def _spread(names: Sequence[str], count: int) -> Sequence[str]:
    """So many of the names, or all, evenly spread."""
    count = min(count, len(names))
    return [names[i * len(names) // count] for i in range(count)]
