"""A CSV, TSV or Parquet file that says which image file has which label, and perhaps which split.

The rows under the header `file,label,split` are such as `001.jpg,oak,train` and `002.jpg,ash|elm,test`.
"""

from __future__ import annotations

import csv
import os
import posixpath
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

import numpy as np

from task2vec.errors import TaskError
from task2vec.images import image_extensions
from task2vec.tasks.files import FileImages, Files, ZipFiles
from task2vec.tasks.labels import label_space, several_labels
from task2vec.tasks.sources import LabelledImages
from task2vec.tasks.split_names import chosen_split, split_of

ENDINGS = (".csv", ".tsv", ".parquet")
FILE_COLUMNS = ("file", "file_name", "filename", "path", "filepath", "image", "image_path", "img")
LABEL_COLUMNS = ("label", "labels", "class", "category", "target", "tags")
SPLIT_COLUMNS = ("split", "set", "subset")
MISSING = ("nan", "NaN", "NaT", "<NA>")  # what programs write for a label that is not there
SEPARATORS = ("|", ";")  # between several labels; a label that holds one is asked about


def read_table(
    path: Path,
    *,
    root: Path | None = None,
    file: str | None = None,
    label: str | None = None,
    separator: str | None = None,
    split: str | None = None,
) -> LabelledImages:
    """The images of a table, or of one of its splits: the training split if none is named.

    Arguments are those of `Task.from_table`.
    """
    found = read_table_splits(path, root=root, file=file, label=label, separator=separator)
    if set(found) == {None}:
        if split is not None:
            raise TaskError(f"{path} has no split {split!r}, nor a column {SPLIT_COLUMNS[0]!r}; leave split out")
        return found[None]
    return found[chosen_split({role: role for role in found if role}, split, str(path))]


def read_table_splits(
    path: Path,
    *,
    root: Path | None = None,
    file: str | None = None,
    label: str | None = None,
    separator: str | None = None,
) -> dict[str | None, LabelledImages]:
    """The images of every split, by `train`, `val` and `test`; all under None where there is no split column.

    Raises:
        TaskError: the table cannot be read, lacks a column, has a row without a label, names a file twice with
            different labels or in two splits, or none of its files exists.
    """
    header, rows, nested = _cells(path)
    spelled = [name.strip().lower() for name in header]
    twice = next((name for name in spelled if name and spelled.count(name) > 1), None)
    if twice is not None:
        raise TaskError(f"two columns of {path} are called {twice!r}; rename or remove one")
    names = {name: number for number, name in enumerate(spelled)}
    at_file = _column(file, FILE_COLUMNS, names, "the files", "file", path)
    at_label = _column(label, LABEL_COLUMNS, names, "the labels", "label", path)
    odd = next((header[at] for at in (at_file, at_label) if header[at] in nested), None)
    if odd is not None:
        raise TaskError(
            f"column {odd!r} of {path} has several values in a cell; write them as one text, with a separator between "
            "an image's labels"
        )
    at_split = next((names[name] for name in SPLIT_COLUMNS if name in names), None)
    files = [_one_spelling(row[at_file].strip()) for row in rows]
    labels = [row[at_label].strip() for row in rows]
    splits = [None if at_split is None else _role(row[at_split], number, path) for number, row in enumerate(rows)]
    _check_rows(files, labels, splits, separator, root or path.parent, path)
    reader = _reader(files, root or path.parent, path)
    if separator:
        split_up = [[part.strip() for part in text.split(separator) if part.strip()] for text in labels]
        numbers, class_names = several_labels(split_up)
    else:
        numbers, class_names = label_space(np.array(labels), None)
    found: dict[str | None, LabelledImages] = {}
    for role in dict.fromkeys(splits):
        mine = [i for i, other in enumerate(splits) if other == role]
        kept = numbers[mine]
        # Each split numbers the classes that it has, as a folder does; reading all splits at once makes one space.
        present = np.flatnonzero(kept.any(axis=0)) if separator else np.unique(kept)
        found[role] = LabelledImages(
            FileImages(reader, tuple(files[i] for i in mine)),
            kept[:, present] if separator else np.searchsorted(present, kept),
            tuple(class_names[c] for c in present),
            source=f"{path.name}/{role}" if role else path.name,
            name=path.stem,
        )
    return found


def _cells(path: Path) -> tuple[list[str], list[list[str]], set[str]]:
    """The header, the other rows as text, and the columns that hold more than one value in a cell."""
    if not path.exists():
        raise TaskError(f"there is no table at {path}; check the path")
    ending = path.suffix.lower()
    if ending == ".parquet":
        return _parquet_cells(path)
    if ending not in ENDINGS:
        raise TaskError(f"{path} is no table; give one that ends in {', '.join(ENDINGS)}")
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            delimiter = "\t" if ending == ".tsv" else ","
            rows = [row for row in csv.reader(file, delimiter=delimiter, strict=True) if any(row)]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise TaskError(f"cannot read the table {path} ({error})") from error
    if not rows:
        raise TaskError(f"the table {path} is empty; give rows of file,label")
    header, rest = rows[0], rows[1:]
    if any(PurePosixPath(cell.strip()).suffix.lower() in image_extensions() for cell in header):
        header, rest = ["file", "label", "split"][: len(header)], rows  # it begins with the first image
    odd = next((number for number, row in enumerate(rest) if len(row) < len(header) or any(row[len(header) :])), None)
    if odd is not None:
        raise TaskError(
            f"row {odd} of {path} has {len(rest[odd])} cells, but there are {len(header)} columns; put texts that hold "
            "a separator of cells in quotes"
        )
    odd = next((number for number, row in enumerate(rest) if any("\n" in cell or "\r" in cell for cell in row)), None)
    if odd is not None:
        raise TaskError(f"row {odd} of {path} has a line break in a cell; close the quotes that begin there")
    if not rest:
        raise TaskError(f"the table {path} has no rows; give one for each image")
    return header, rest, set()


def _parquet_cells(path: Path) -> tuple[list[str], list[list[str]], set[str]]:
    try:
        from pyarrow import ArrowException, parquet, types
    except ImportError as error:
        raise TaskError(f"reading {path} needs pyarrow; pip install pyarrow, or give a CSV") from error
    try:
        table = parquet.read_table(path)
    except (OSError, ArrowException) as error:
        raise TaskError(f"cannot read the table {path} ({error})") from error
    nested = {name for name, kind in zip(table.column_names, table.schema.types, strict=True) if types.is_nested(kind)}
    columns = [
        ["" if value is None or value != value else str(value) for value in column.to_pylist()]
        for column in table.columns
    ]
    return list(table.column_names), [list(row) for row in zip(*columns, strict=True)], nested


def _column(
    wanted: str | None, usual: Sequence[str], names: dict[str, int], what: str, argument: str, path: Path
) -> int:
    found = next((n for n in ([wanted.strip().lower()] if wanted is not None else usual) if n in names), None)
    if found is None:
        there = ", ".join(names)
        if wanted is not None:
            raise TaskError(f"{path} has no column {wanted!r}; it has {there}")
        raise TaskError(f"{path} has the columns {there}; name the one of {what} with {argument}=")
    return names[found]


def _role(text: str, row: int, path: Path) -> str:
    role = split_of(text)
    if role is None:
        raise TaskError(f"row {row} of {path} is in split {text!r}; call it train, val or test")
    return role


def _check_rows(
    files: Sequence[str],
    labels: Sequence[str],
    splits: Sequence[str | None],
    separator: str | None,
    root: Path,
    path: Path,
) -> None:
    seen: dict[str, int] = {}
    root = root.resolve() if root.is_dir() else Path()
    for number, (file, label) in enumerate(zip(files, labels, strict=True)):
        if not file:
            raise TaskError(f"row {number} of {path} names no file")
        if not label and not separator:
            raise TaskError(
                f"row {number} of {path} ({file}) has no label; remove the row, or give separator= if an "
                "image may be of several classes or none"
            )
        if label in MISSING:
            raise TaskError(
                f"row {number} of {path} ({file}) has the label {label!r}, by which programs mean that there is none; "
                "remove the row, or call the class otherwise"
            )
        mark = next((s for s in SEPARATORS if s in label), None)
        if mark is not None and separator is None:
            raise TaskError(
                f"label {label!r} in row {number} of {path} looks like several; give separator={mark!r}, or "
                "separator='' if it is one"
            )
        place = os.path.normpath(root / file)  # whether it is written as relative to the root or not
        first = seen.setdefault(place, number)
        if first != number:
            differ = "splits" if splits[first] != splits[number] else "rows"
            raise TaskError(f"{file} stands in two {differ} of {path}, {first} and {number}; keep one of them")


def _one_spelling(file: str) -> str:
    """The path without what changes nothing, so that `./a//0.png` is `a/0.png`."""
    return posixpath.normpath(file) if file else file


def _reader(files: Sequence[str], root: Path, path: Path) -> Files:
    if root.is_file():
        reader: Files = ZipFiles(root)
        known = set(reader.names().files)
        exists = any(file in known for file in files)
    else:
        reader, exists = Files(root), any((root / file).is_file() for file in files)
    if not exists:
        raise TaskError(f"none of the {len(files)} files of {path}, such as {files[0]}, is under {root}; give root=")
    return reader
