"""The register that every family of this project is kept in: adapter methods, distances, estimators, recommenders."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping
from importlib.metadata import EntryPoint, entry_points
from threading import RLock
from typing import TypeVar

T = TypeVar("T")

__all__ = ["Registry"]


class Registry(Mapping[str, T]):
    """Named things of one family, each entered once: by this project's files, or by somebody else's package.

    Another package names an entry point of the group, whose name is that of the thing and whose value is the module
    that enters it. Such modules are imported when a name is looked up that is not known yet, or when all names are
    listed. One that fails is left out, and a warning names it.

    Args:
        kind: What one of the things is called, for messages.
        group: The group of entry points that other packages use.
    """

    def __init__(self, kind: str, group: str) -> None:
        self.kind = kind
        self.group = group
        self._entries: dict[str, T] = {}
        self._loaded = False
        self._lock = RLock()  # a plugin that is being imported enters its things into this very register

    def enter(self, name: str, thing: T) -> None:
        """Enter a thing under `name`.

        Raises:
            ValueError: the name is taken.
        """
        if name in self._entries:
            raise ValueError(f"there is a {self.kind} {name!r} already; choose another name")
        self._entries[name] = thing

    def register(self, name: str) -> Callable[[T], T]:
        """A decorator that enters what it decorates under `name`."""

        def enter(thing: T) -> T:
            self.enter(name, thing)
            return thing

        return enter

    def __getitem__(self, name: str) -> T:
        if name not in self._entries:
            self._load()
        return self._entries[name]

    def __contains__(self, name: object) -> bool:
        if name not in self._entries:
            self._load()
        return name in self._entries

    def __iter__(self) -> Iterator[str]:
        self._load()
        return iter(self._entries)

    def __len__(self) -> int:
        self._load()
        return len(self._entries)

    def __repr__(self) -> str:
        return f"Registry({self.kind}: {', '.join(self)})"

    def _load(self) -> None:
        """Import the other packages' modules, once."""
        with self._lock:
            if self._loaded:
                return
            self._loaded = True
            for point in entry_points(group=self.group):
                self._load_one(point)

    def _load_one(self, point: EntryPoint) -> None:
        before = dict(self._entries)
        try:
            point.load()
            if point.name not in self._entries:
                raise LookupError(f"{point.value} enters no {self.kind} of this name")
        except Exception as error:  # somebody else's code fails in any way
            self._entries = before
            package = "an unknown package" if point.dist is None else f"the package {point.dist.name}"
            warnings.warn(
                f"the {self.kind} {point.name!r} of {package} is left out: {type(error).__name__}: {error}",
                stacklevel=2,
            )
