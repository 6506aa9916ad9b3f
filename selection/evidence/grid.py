"""A grid of trials: which configurations to tune on which tasks, as a person writes it down.

    folder = "datasets"             # ImageFolder zips with train and test splits; relative to this file
    exclude = ["tin_base"]
    images = 100                    # training images of each task; all if left out
    subtasks = true                 # halves and groups of each task's classes too
    seeds = [0, 1]
    precision = "bfloat16"          # also device = "cuda", workers = 4

    [sources]                       # tasks cut from one source, by the pattern of their names
    "tin_*" = "tin"

    [[config]]                      # any settings of AdapterConfig; a list stands for alternatives
    method = "lora"
    rank = [4, 16]
    learning_rate = [0.005, 0.015]

Without any `[[config]]` the grid holds the sensible candidates of every method (`selection.evidence.space`).
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Iterable, Iterator
from fnmatch import fnmatch
from itertools import product
from pathlib import Path
from typing import Any

import adapters
from adapters import AdapterConfig
from selection.errors import SelectionError
from selection.evidence.collection import data_sets_in
from selection.evidence.space import search_space
from selection.evidence.subtasks import subtasks
from task2vec import Compute, Task

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib


COMPUTING = {"device": "device", "precision": "autocast", "workers": "workers"}
"""What a grid's file, like the command line, calls the fields of `Compute`."""


@dataclasses.dataclass(frozen=True)
class GridTask:
    """A task of a grid: the images to learn from, those to score on, and where both come from."""

    train: Task
    test: Task
    source: str


@dataclasses.dataclass(frozen=True)
class Grid:
    """What `run_grid` runs.

    Attributes:
        folder: Folder of ImageFolder zips (or folders), each with a train and a test split.
        configs: What to tune.
        exclude: Names of tasks to leave out.
        images: How many training images a task has, validation included; all if not given. With a number, `@NUMBER`
            is added to the tasks' names.
        subtasks: Whether halves and groups of each task's classes are tasks too.
        seeds: Each configuration is tuned once for each.
        backbone: A timm model with pretrained weights.
        compute: Where and how to compute.
        sources: Patterns of names, and what source such tasks come from; a task's own name for the others.
    """

    folder: Path
    configs: tuple[AdapterConfig, ...] = ()
    exclude: tuple[str, ...] = ()
    images: int | None = None
    subtasks: bool = False
    seeds: tuple[int, ...] = (0,)
    backbone: str = adapters.DEFAULT_BACKBONE
    compute: Compute = dataclasses.field(default_factory=Compute)
    sources: tuple[tuple[str, str], ...] = ()

    def __post_init__(self) -> None:
        """Fill in the search space where no configuration is given; refuse settings that are none."""
        for name in ("exclude", "seeds", "configs", "sources"):
            values = getattr(self, name)
            if isinstance(values, Iterable) and not isinstance(values, str):
                object.__setattr__(self, name, tuple(values))
        if not _is_tuple_of(int, self.seeds) or any(seed < 0 for seed in self.seeds):
            raise SelectionError(f"seeds={self.seeds!r} must be a list of whole numbers from 0 on, such as [0, 1]")
        if not _is_tuple_of(str, self.exclude):
            raise SelectionError(f'exclude={self.exclude!r} must be a list of names, such as ["birds"]')
        if self.images is not None and (not _is_a(int, self.images) or self.images < 1):
            raise SelectionError(
                f"images={self.images!r} must be a whole number from 1 on; leave it out for all images"
            )
        if not isinstance(self.subtasks, bool):
            raise SelectionError(f"subtasks={self.subtasks!r} must be true or false")
        if not isinstance(self.backbone, str):
            raise SelectionError(f"backbone={self.backbone!r} must be the name of a timm model")
        if not isinstance(self.sources, tuple) or not all(_is_tuple_of(str, p) and len(p) == 2 for p in self.sources):
            raise SelectionError(
                f'sources={self.sources!r} must name a source for patterns of names, such as "tin_*" = "tin"'
            )
        if not self.configs:
            object.__setattr__(self, "configs", search_space(self.backbone))

    @classmethod
    def from_file(cls, path: str | Path) -> Grid:
        """Read a grid from TOML.

        Raises:
            SelectionError: the file cannot be read, or a setting is unknown or wrong.
        """
        path = Path(path)
        try:
            values = tomllib.loads(path.read_text())
        except (OSError, ValueError) as error:
            raise SelectionError(f"{path} is not a grid ({error}); see selection.Grid") from error
        entries, sources = values.pop("config", []), values.pop("sources", {})
        if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
            raise SelectionError(f"{path} has a config that is none; write each under a line [[config]]")
        if not isinstance(sources, dict):
            raise SelectionError(f'{path} has sources={sources!r}; write lines such as "tin_*" = "tin" under [sources]')
        configs = tuple(config for entry in entries for config in _alternatives(entry, path))
        computing = {new: values.pop(old) for old, new in COMPUTING.items() if old in values}
        unknown = set(values) - {field.name for field in dataclasses.fields(cls)}
        if unknown or "folder" not in values:
            raise SelectionError(f"{path} has {', '.join(sorted(unknown)) or 'no folder'}; see selection.Grid")
        if not isinstance(values["folder"], str):
            raise SelectionError(f"{path} has folder={values['folder']!r}, which is no path")
        folder = (path.parent / values.pop("folder")).absolute()
        return cls(
            folder=folder, configs=configs, sources=tuple(sources.items()), compute=Compute(**computing), **values
        )

    def tasks(self) -> Iterator[GridTask]:
        """The tasks, all whole ones before the parts of any.

        Raises:
            SelectionError: the folder holds no data sets, or two of one name.
        """
        found = data_sets_in(self.folder, self.exclude)
        learned = [Task.from_folder(path, split="train", name=name) for name, path in found.items()]
        pairs = zip(found.values(), learned, strict=True)
        whole = [(train, Task.from_folder(path, split="test", classes_of=train)) for path, train in pairs]
        for train, test in whole:
            yield self._task(train, test)
        if self.subtasks:
            parts = [(train, test, subtasks(train)) for train, test in whole]
            for kind in range(max(len(found) for _, _, found in parts)):
                for train, test, regrouped in parts:
                    for name, groups in list(regrouped.items())[kind : kind + 1]:
                        yield self._task(train.regrouped(groups, name=name), test.regrouped(groups, name=name))

    def _task(self, train: Task, test: Task) -> GridTask:
        source = next((s for pattern, s in self.sources if fnmatch(train.name, pattern)), train.name.split(".")[0])
        if self.images is not None:
            name = f"{train.name}@{self.images}"
            train = dataclasses.replace(train.subsample(self.images), name=name)
        return GridTask(train, test, source)


def _is_a(kind: type, value: object) -> bool:
    """Whether it is of a type; true and false are no numbers."""
    return isinstance(value, kind) and not isinstance(value, bool)


def _is_tuple_of(kind: type, values: object) -> bool:
    return isinstance(values, tuple) and all(_is_a(kind, value) for value in values)


def _alternatives(entry: dict[str, Any], path: Path) -> Iterator[AdapterConfig]:
    """The configurations of an entry: every combination of what its lists offer.

    Raises:
        SelectionError: a list offers nothing.
    """
    empty = next((name for name, value in entry.items() if value == []), None)
    if empty is not None:
        raise SelectionError(f"{empty} = [] in {path} offers no alternative; name some, or leave the line out")
    lists = [value if isinstance(value, list) else [value] for value in entry.values()]
    for values in product(*lists):
        yield AdapterConfig.from_dict(dict(zip(entry, values, strict=True)))
