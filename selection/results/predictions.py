"""What a tuned model says of images, as a table, CSV or JSON.

Indices: n image, c class.
"""

from __future__ import annotations

import csv
import dataclasses
import io
from itertools import chain, count
from typing import Any

import numpy as np
import numpy.typing as npt

COLUMNS = ("image", "class")  # of a table, before those of the probabilities
SEPARATORS = ("|", ";", ",", "/")  # between the names of several classes
RARE = 0x2502  # the code of the first of the marks that draw boxes


@dataclasses.dataclass(frozen=True)
class Predictions:
    """Probabilities of the classes for some images.

    Attributes:
        names: Of the images that could be read, in order.
        class_names: Of the columns.
        probabilities: float32 `(N, C)`; rows sum to 1, but for models of several labels an image.
        multi_label: Whether an image may be of several classes or none.
        unreadable: What was left out, a sentence each.
    """

    names: tuple[str, ...]
    class_names: tuple[str, ...]
    probabilities: npt.NDArray[np.float32]
    multi_label: bool = False
    unreadable: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.names)

    def __repr__(self) -> str:
        left = f", {len(self.unreadable)} unreadable" if self.unreadable else ""
        return f"Predictions({len(self)} images, {len(self.class_names)} classes{left})"

    @property
    def labels(self) -> npt.NDArray[np.int64]:
        """The likeliest class of each image `(N,)`; with several labels an image, `(N, C)` of 0 and 1."""
        if self.multi_label:
            return (self.probabilities > 0.5).astype(np.int64)
        return self.probabilities.argmax(axis=1).astype(np.int64)

    @property
    def classes(self) -> tuple[str, ...]:
        """The name of each image's likeliest class; with several labels an image, of all found, between which stands
        `separator`.
        """
        if self.multi_label:
            return tuple(self.separator.join(self.class_names[c] for c in np.flatnonzero(row)) for row in self.labels)
        return tuple(self.class_names[label] for label in self.labels)

    @property
    def separator(self) -> str:
        """What stands between the names of several classes: `|`, or where a class has that in its name, the first of
        `;`, `,`, `/` and rare marks that none has.
        """
        marks = chain(SEPARATORS, map(chr, count(RARE)))
        return next(mark for mark in marks if not any(mark in name for name in self.class_names))

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns of `to_csv`: image, class, and one for each class, of its name unless that is taken already."""
        found = list(COLUMNS)
        for name in self.class_names:
            column = name
            while column in COLUMNS or (column != name and column in self.class_names):
                column = f"probability of {column}"
            found.append(column)
        return tuple(found)

    def records(self) -> list[dict[str, Any]]:
        """For each image its name, its class and the probability of every class, as plain values."""
        return [
            {"image": name, "class": found, "probabilities": dict(zip(self.class_names, row.tolist(), strict=True))}
            for name, found, row in zip(self.names, self.classes, self.probabilities, strict=True)
        ]

    def to_csv(self) -> str:
        """A header and a line for each image: its name, its class, and the probability of every class."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(self.columns)
        for name, found, row in zip(self.names, self.classes, self.probabilities, strict=True):
            writer.writerow([name, found, *(f"{p:.6f}" for p in row)])
        return text.getvalue()
