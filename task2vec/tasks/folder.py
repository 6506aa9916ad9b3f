"""A folder, or a zip of one, with the images of each class in a folder of the class's name.

    CLASS/*.jpg        or        train/CLASS/*.jpg beside val/ and test/

with any number of folders around it.
"""

from __future__ import annotations

import dataclasses
import warnings
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path, PurePosixPath

import numpy as np

from task2vec.errors import TaskError, TaskWarning
from task2vec.tasks.files import FileImages, Listing, list_images, plugin_for
from task2vec.tasks.sources import LabelledImages
from task2vec.tasks.split_names import TRAIN, chosen_split, split_of


@dataclasses.dataclass(frozen=True)
class Layout:
    """Where the class folders lie.

    Attributes:
        splits: The prefix of the class folders of each split, such as `{"train": "flowers/Training/"}`; empty where
            there are no splits.
        prefix: The prefix of the class folders where there are no splits.
    """

    splits: Mapping[str, str]
    prefix: str = ""


def read_folder(path: Path, split: str | None) -> LabelledImages:
    """The images of a folder or zip, or of one of its splits: the training split if none is named.

    Raises:
        TaskError: nothing there, no images, no such split, no class folders, or folders that are neither split nor
            class.
    """
    listing = list_images(path)
    layout = layout_of(listing)
    if not layout.splits:
        if split is not None:
            raise TaskError(f"{path} has no split {split!r}: its folders are classes; leave split out")
        return _read(listing, layout, None)
    names = {role: prefix.rstrip("/").split("/")[-1] for role, prefix in layout.splits.items()}
    return _read(listing, layout, chosen_split(names, split, str(path)))


def read_folder_splits(path: Path) -> dict[str, LabelledImages]:
    """The images of every split of a folder or zip; all of them as `train` where there are no splits."""
    listing = list_images(path)
    layout = layout_of(listing)
    if not layout.splits:
        return {TRAIN: _read(listing, layout, None)}
    return {role: _read(listing, layout, role) for role in layout.splits}


def layout_of(listing: Listing) -> Layout:
    """Find the splits, or the class folders, below any number of folders that hold nothing else.

    Raises:
        TaskError: a folder beside a split is none, two folders are the same split, or a split holds links to what is
            read anyway.
    """
    _refuse_links_in_splits(listing.links, listing.files.path)
    prefix = ""
    while True:
        inside = [name.removeprefix(prefix) for name in listing.images]
        tops = sorted({name.split("/")[0] for name in inside if "/" in name})
        have_classes = {name.split("/", 1)[0] for name in inside if name.count("/") > 1}
        splits = [top for top in tops if split_of(top) and top in have_classes]
        if splits:
            return Layout(_unique_splits(splits, tops, prefix, listing))
        if len(tops) != 1 or tops[0] not in have_classes or len(inside) > sum("/" in name for name in inside):
            return Layout({}, prefix)
        prefix += f"{tops[0]}/"


def _refuse_links_in_splits(links: Sequence[str], path: Path) -> None:
    """Refuse links that would be left out of a split: its images would be learned from, or measured on, elsewhere.

    Raises:
        TaskError: there are some.
    """
    lost = [name for name in links if any(map(split_of, PurePosixPath(name).parts))]
    if lost:
        raise TaskError(
            f"{lost[0]} in {path} is one of {len(lost)} links in splits to what is read from that folder anyway, so "
            "that images would count twice; keep what such links lead to outside of it, or remove them"
        )


def _unique_splits(splits: list[str], tops: list[str], prefix: str, listing: Listing) -> dict[str, str]:
    others = [top for top in tops if top not in splits]
    flat = next((top for top in others if split_of(top)), None)
    if flat is not None:
        raise TaskError(
            f"folder {flat}/ of {listing.files.path / prefix} has no class folders; put its images into {flat}/CLASS, "
            "or move it elsewhere if they have no labels"
        )
    if others:
        raise TaskError(
            f"folder {others[0]}/ of {listing.files.path / prefix} stands beside the split {splits[0]}/, but is none "
            "itself; rename it to train, val or test, or move it elsewhere"
        )
    roles: dict[str, str] = {}
    for top in splits:
        role = split_of(top)
        assert role is not None  # that made it a split
        if role in roles:
            one = roles[role].removeprefix(prefix)
            raise TaskError(
                f"{one} and {top}/ of {listing.files.path / prefix} are both the {role} split; put them together, or "
                "move one elsewhere"
            )
        roles[role] = f"{prefix}{top}/"
        again = {
            name.removeprefix(roles[role]).split("/")[0] for name in listing.images if name.startswith(roles[role])
        }
        if len(again) == 1 and split_of(min(again)) == role:  # an archive of a folder that was packed twice
            roles[role] += f"{min(again)}/"
    return roles


def _read(listing: Listing, layout: Layout, role: str | None) -> LabelledImages:
    """The images in the class folders of one split, or of all if there is none; others are passed over."""
    path = listing.files.path
    prefix = layout.splits[role] if role else layout.prefix
    below = [name for name in listing.images if name.startswith(prefix)]
    inside = [name for name in below if "/" in name.removeprefix(prefix)]
    if not inside:
        raise TaskError(
            f"the {len(below)} images of {path / prefix} are not in class folders; move each into CLASS/, or give "
            "labels by Task.from_names (from the files' names) or Task.from_table (from a CSV or Parquet)"
        )
    parts = [name.removeprefix(prefix).split("/") for name in inside]
    _refuse_unnamed_splits(parts, path / prefix)
    if all(len(part) > 2 and split_of(part[1]) for part in parts):
        raise TaskError(
            f"the splits of {path} lie inside its class folders ({parts[0][0]}/{parts[0][1]}); put the classes inside "
            "the splits instead, as train/CLASS and test/CLASS"
        )
    class_names = tuple(sorted({part[0] for part in parts}))
    if role is None and len(class_names) > 1 and all(map(split_of, class_names)):
        raise TaskError(
            f"the splits {', '.join(class_names)} of {path} hold images without class folders; put each into "
            f"{class_names[0]}/CLASS, or give labels by Task.from_names or Task.from_table"
        )
    number = {name: c for c, name in enumerate(class_names)}
    others = tuple(other for other in layout.splits.values() if other != prefix)
    taken = set(inside)
    passed_over = [name for name in sorted(listing.images + listing.skipped) if name not in taken]
    skipped = tuple(name for name in passed_over if not name.startswith(others))
    _tell_of_lost_photographs(sorted(set(skipped) - set(listing.links)), listing.empty, prefix, number, path)
    return LabelledImages(
        FileImages(listing.files, tuple(inside)),
        np.array([number[part[0]] for part in parts], np.int64),
        class_names,
        source=f"{path.name}/{prefix.split('/')[-2]}" if role else path.name,
        name=task_name(path.resolve()),
        skipped=skipped,
    )


def _tell_of_lost_photographs(
    skipped: Sequence[str], empty: Sequence[str], prefix: str, class_names: Collection[str], path: Path
) -> None:
    """Warn of photographs that Pillow does not open, and of folders beside the class folders that give no class.

    Args:
        skipped: Names of files that are passed over, without links to what is read elsewhere.
        empty: Folders in which nothing lies.
        prefix: Of the class folders.
        class_names: Those that have images.
        path: Of the data set, for the warning.
    """
    own = [name.removeprefix(prefix) for name in skipped if name.startswith(prefix)]
    files = Counter(name.split("/")[0] for name in own if "/" in name)
    for name in empty:
        if name.startswith(prefix):
            files[name.removeprefix(prefix).split("/")[0]] += 0
    lost = [f"{name} ({_count(files[name])})" for name in sorted(files) if name not in class_names]
    if lost:
        more = f" and {len(lost) - 3} more" if len(lost) > 3 else ""
        warnings.warn(
            f"no class is made of {', '.join(lost[:3])}{more} in {path / prefix}, as no image lies there",
            TaskWarning,
            stacklevel=2,
        )
    plugin = plugin_for(own)
    if plugin is not None:
        warnings.warn(f"photographs of {path / prefix} are passed over; {plugin}", TaskWarning, stacklevel=2)


def _count(files: int) -> str:
    return "empty" if not files else f"{files} other file{'s' if files > 1 else ''}"


def _refuse_unnamed_splits(parts: list[list[str]], where: Path) -> None:
    """Refuse folders that all hold the same folders: they are parts of a dataset by names that nobody can know.

    Raises:
        TaskError: they are.
    """
    below: dict[str, set[str]] = {}
    for part in parts:
        below.setdefault(part[0], set()).add(part[1] if len(part) > 2 else "")
    shared = next(iter(below.values()))
    if len(below) > 1 and len(shared) > 1 and "" not in shared and all(own == shared for own in below.values()):
        tops, folders = (", ".join(sorted(names)[:3]) for names in (below, shared))
        raise TaskError(
            f"the folders {tops} of {where} all hold the folders {folders}: if they are splits, rename them to train, "
            "val or test; if they are classes, put the images into them directly"
        )


def task_name(path: Path) -> str:
    """The folder's or archive's name; for the folder of a split, that of the folder around it."""
    if path.is_dir():
        return path.parent.name if split_of(path.name) else path.name
    return path.stem
