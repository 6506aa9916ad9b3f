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
from collections.abc import Iterator
from fnmatch import fnmatch
from itertools import product
from pathlib import Path
from typing import Any

import adapters
from adapters import AdapterConfig
from selection.errors import SelectionError
from selection.evidence.embedding import name_of
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
        """Fill in the search space where no configuration is given; refuse seeds that are none."""
        if not isinstance(self.seeds, tuple) or any(not isinstance(seed, int) or seed < 0 for seed in self.seeds):
            raise SelectionError(f"seeds={self.seeds} must be a list of whole numbers from 0 on, such as [0, 1]")
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
        configs = tuple(config for entry in values.pop("config", []) for config in _alternatives(entry))
        sources = tuple(values.pop("sources", {}).items())
        computing = {new: values.pop(old) for old, new in COMPUTING.items() if old in values}
        unknown = set(values) - {field.name for field in dataclasses.fields(cls)}
        if unknown or "folder" not in values:
            raise SelectionError(f"{path} has {', '.join(sorted(unknown)) or 'no folder'}; see selection.Grid")
        folder = (path.parent / values.pop("folder")).absolute()
        lists: dict[str, Any] = {
            name: tuple(value) if isinstance(value, list) else value for name, value in values.items()
        }
        return cls(folder=folder, configs=configs, sources=sources, compute=Compute(**computing), **lists)

    def tasks(self) -> Iterator[GridTask]:
        """The tasks, all whole ones before the parts of any.

        Raises:
            SelectionError: the folder holds no tasks.
        """
        paths = [p for p in sorted(self.folder.iterdir()) if p.is_dir() or p.suffix == ".zip"]
        paths = [p for p in paths if not p.name.startswith(".") and name_of(p) not in self.exclude]
        if not paths:
            raise SelectionError(f"{self.folder} holds no tasks; give a folder of zips with train and test splits")
        names = [name_of(path) for path in paths]
        twice = next((name for name in names if names.count(name) > 1), None)
        if twice is not None:
            raise SelectionError(f"two tasks of {self.folder} are called {twice}; rename one")
        learned = [Task.from_folder(p, split="train", name=name) for p, name in zip(paths, names, strict=True)]
        whole = [(t, Task.from_folder(p, split="test", classes_of=t)) for p, t in zip(paths, learned, strict=True)]
        for train, test in whole:
            yield self._task(train, test)
        if self.subtasks:
            parts = [(train, test, subtasks(train)) for train, test in whole]
            for kind in range(max(len(found) for _, _, found in parts)):
                for train, test, found in parts:
                    for name, groups in list(found.items())[kind : kind + 1]:
                        yield self._task(train.regrouped(groups, name=name), test.regrouped(groups, name=name))

    def _task(self, train: Task, test: Task) -> GridTask:
        source = next((s for pattern, s in self.sources if fnmatch(train.name, pattern)), train.name.split(".")[0])
        if self.images is not None:
            name = f"{train.name}@{self.images}"
            train = dataclasses.replace(train.subsample(self.images), name=name)
        return GridTask(train, test, source)


def _alternatives(entry: dict[str, Any]) -> Iterator[AdapterConfig]:
    """The configurations of an entry: every combination of what its lists offer."""
    lists = [value if isinstance(value, list) else [value] for value in entry.values()]
    for values in product(*lists):
        yield AdapterConfig.from_dict(dict(zip(entry, values, strict=True)))
