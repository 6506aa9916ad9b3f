"""The register of the tuning methods, which each file enters its own method into."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

from adapters.methods.site_adapter import SiteAdapter
from adapters.settings import Settings
from adapters.sites import Site
from task2vec_registry import Registry

Own = TypeVar("Own", bound=Settings)

Parts = Iterator[tuple[Site, SiteAdapter]]
"""The adapters and where they go; nothing where the method does not fit the backbone."""


@dataclasses.dataclass(frozen=True)
class Official:
    """How a method relates to its published form, for people to read.

    Attributes:
        equal: What is equal to what.
        different: What is not, and why; empty if nothing.
    """

    equal: str
    different: str = ""


@dataclasses.dataclass(frozen=True)
class Method:
    """One way to tune.

    Attributes:
        name: How configs call it.
        title: What people call it.
        paper: Where it was described.
        build: Makes the adapters, from a backbone's sites and the method's settings.
        settings: What it takes, with documentation, defaults and ranges.
        needs: What a backbone must have for the method to make sense, for people to read; empty if nothing.
        trains: What it trains beside the classifier, for people to read.
        official: Whose formulation it equals, and what is deliberately different.
        cannot_merge: Why it cannot become a plain model; empty if it can.
    """

    name: str
    title: str
    paper: str
    build: Callable[[list[Site], Any], Parts]
    settings: type[Settings]
    needs: str
    trains: str
    official: Official
    cannot_merge: str = ""

    @property
    def defaults(self) -> dict[str, Any]:
        """The settings that it takes, with their defaults."""
        return {name: setting.default for name, setting in self.settings.declared().items()}

    @property
    def size(self) -> str | None:
        """The name of the setting that is its size; None if it has none."""
        return next((name for name, setting in self.settings.declared().items() if setting.is_size), None)


METHODS: Registry[Method] = Registry("method", "task2vec.methods")


def register_method(
    name: str,
    title: str,
    paper: str = "",
    *,
    settings: type[Own],
    needs: str,
    trains: str,
    equal: str,
    different: str = "",
    cannot_merge: str = "",
) -> Callable[[Callable[[list[Site], Own], Parts]], Callable[[list[Site], Own], Parts]]:
    """Enter a method under `name`.

    Args:
        name: How configs call it.
        title: What people call it.
        paper: Where it was described.
        settings: The class of its settings.
        needs: What a backbone must have; empty if nothing.
        trains: What it trains beside the classifier.
        equal: What is equal to which published formulation.
        different: What deliberately is not, and why.
        cannot_merge: Why it cannot become a plain model; empty if it can.

    Raises:
        ValueError: the name is taken.
    """

    def enter(build: Callable[[list[Site], Own], Parts]) -> Callable[[list[Site], Own], Parts]:
        official = Official(equal, different)
        METHODS.enter(name, Method(name, title, paper, build, settings, needs, trains, official, cannot_merge))
        return build

    return enter
