"""Label spaces: from what people write as labels to class numbers with names.

Indices: i image, c class.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from task2vec.errors import TaskError

Labels = npt.NDArray[np.int64]


def label_space(values: npt.NDArray[Any], class_names: tuple[str, ...] | None) -> tuple[Labels, tuple[str, ...]]:
    """Labels as a task holds them, and the classes' names.

    Args:
        values: One label for each image, `(N,)`: numbers or names; each distinct value is a class. Or rows
            `(N, classes)` of 0 and 1, where an image may be of several classes or none. Bytes are read as UTF-8.
        class_names: Names that numbers or columns refer to; two for truth values, that of False first; or all names
            that labels have.

    Raises:
        TaskError: a label is fractional, negative, without a name or of another one, no text in UTF-8, or neither 0
            nor 1 in a row; or rows have a single column.
    """
    if values.dtype.kind == "S":
        values = _decoded(values)
    if values.ndim == 1:
        return _one_label(values, class_names)
    if values.shape[1] == 1:
        raise TaskError(
            "labels have a single column, which tells no classes apart; give one label for each image, such as "
            "labels[:, 0]"
        )
    wrong = ~np.isin(values, (0, 1))
    if wrong.any():
        row, column = np.argwhere(wrong)[0]
        raise TaskError(f"label {row} has {values[row, column]} for class {column}; labels in rows must be 0 or 1")
    names = class_names or tuple(str(c) for c in range(values.shape[1]))
    if len(names) != values.shape[1]:
        raise TaskError(f"labels are of {values.shape[1]} classes, but {len(names)} class names are given")
    return values.astype(np.int64), names


def _decoded(values: npt.NDArray[np.bytes_]) -> npt.NDArray[np.str_]:
    try:
        return np.char.decode(values, "utf-8")
    except UnicodeDecodeError as error:
        raise TaskError(f"label {error.object!r} is no text in UTF-8; give labels as texts or numbers") from error


def _one_label(values: npt.NDArray[Any], class_names: tuple[str, ...] | None) -> tuple[Labels, tuple[str, ...]]:
    """Labels as 0..C-1 and a name for each. With `class_names`, numbers and truth values index them."""
    if values.dtype == bool and class_names is not None:
        if len(class_names) != 2:
            raise TaskError(f"labels of True and False need two class names, that of False first, not {class_names}")
        values = values.astype(np.int64)
    if np.issubdtype(values.dtype, np.floating):
        fractional = ~(np.isfinite(values) & (values == np.floor(values)))
        if fractional.any():
            at = int(fractional.argmax())
            raise TaskError(f"label {at} is {values[at]}; labels must be class numbers or names, not measurements")
        values = values.astype(np.int64)
    if np.issubdtype(values.dtype, np.integer) and (values < 0).any():
        at = int((values < 0).argmax())
        raise TaskError(f"label {at} is {values[at]}; remove unlabelled images or number classes from 0")
    if values.dtype == object:
        missing = [at for at, value in enumerate(values) if value is None or value != value]
        if missing:
            raise TaskError(f"label {missing[0]} is missing ({values[missing[0]]}); remove unlabelled images")
    distinct, numbers = np.unique(values.astype(str) if values.dtype == object else values, return_inverse=True)
    if class_names is None:
        return numbers.astype(np.int64), tuple(str(v) for v in distinct)
    if np.issubdtype(values.dtype, np.integer):
        if len(distinct) and distinct[-1] >= len(class_names):
            raise TaskError(f"label {distinct[-1]} has no name: only {len(class_names)} class names are given")
        return numbers.astype(np.int64), tuple(class_names[int(v)] for v in distinct)
    known = set(map(spelled, class_names))
    unknown = next((str(v) for v in distinct if spelled(str(v)) not in known), None)
    if unknown is not None:
        raise TaskError(f"label {unknown!r} is none of the class names {class_names}; leave them out, or mend either")
    return numbers.astype(np.int64), tuple(str(v) for v in distinct)


def several_labels(names: Sequence[Sequence[str]]) -> tuple[Labels, tuple[str, ...]]:
    """Rows of 0 and 1 `(N, classes)` from the names of each image's classes."""
    class_names = tuple(sorted({name for row in names for name in row}))
    number = {name: c for c, name in enumerate(class_names)}
    labels = np.zeros((len(names), len(class_names)), np.int64)
    for i, row in enumerate(names):
        labels[i, [number[name] for name in row]] = 1
    return labels, class_names


def spelled(name: object) -> str:
    """A class's name, which may be a number, as text with composed accents (Unicode's form C).

    macOS writes the same name with decomposed ones.
    """
    return unicodedata.normalize("NFC", str(name))


def spelled_alike(labels: Labels, class_names: tuple[str, ...]) -> tuple[Labels, tuple[str, ...]]:
    """The same labels and names, where names that only decomposed accents tell apart are one class."""
    names = [spelled(name) for name in class_names]
    distinct = tuple(dict.fromkeys(names))
    are_same = len(set(map(str, class_names))) < len(names)  # which are no spellings, and the task refuses them
    if len(distinct) == len(names) or are_same:
        return labels, tuple(names)
    number = np.array([distinct.index(name) for name in names], np.int64)
    if labels.ndim == 1:
        return number[labels], distinct
    found = np.zeros((len(labels), len(distinct)), np.int64)
    for c, column in enumerate(number):
        found[:, column] |= labels[:, c]
    return found, distinct


def renumbered(labels: Labels, class_names: Sequence[str], others: Sequence[str]) -> Labels:
    """The same labels with the class numbers of another label space, which has all classes that occur."""
    number = {name: c for c, name in enumerate(others)}
    if labels.ndim == 1:
        return np.array([number.get(name, -1) for name in class_names], np.int64)[labels]
    found = np.zeros((len(labels), len(others)), np.int64)
    for c in np.flatnonzero(labels.any(axis=0)).tolist():
        found[:, number[class_names[c]]] = labels[:, c]
    return found


def present_classes(labels: Labels) -> Labels:
    """Numbers of the classes that have an image."""
    return np.flatnonzero(labels.any(axis=0)) if labels.ndim == 2 else np.unique(labels)


def among_present(labels: Labels) -> tuple[Labels, Labels]:
    """The labels as if there were no other classes than those that have an image, and the numbers of these."""
    present = present_classes(labels)
    return labels[:, present] if labels.ndim == 2 else np.searchsorted(present, labels), present


def grouped(labels: Labels, num_classes: int, groups: Mapping[str, Sequence[int]]) -> Labels:
    """The number of each image's group of classes, `(N,)`, and -1 for images whose class is in no group.

    Raises:
        ValueError: a class is unknown or in two groups, or images have several labels.
    """
    members = [label for group in groups.values() for label in group]
    if labels.ndim == 2 or len(set(members)) < len(members) or not set(members) <= set(range(num_classes)):
        raise ValueError(f"classes {members} cannot make new classes")
    new = np.full(num_classes, -1, np.int64)
    for number, group in enumerate(groups.values()):
        new[list(group)] = number
    return new[labels]
