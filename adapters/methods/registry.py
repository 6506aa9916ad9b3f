"""The register of the tuning methods, which each file enters its own method into."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from adapters.methods.site_adapter import SiteAdapter

if TYPE_CHECKING:
    from adapters.config import AdapterConfig
    from adapters.sites import Site

Build = Callable[[list["Site"], "AdapterConfig"], Iterator[tuple["Site", SiteAdapter]]]
"""From a backbone's sites and a config to the adapters and where they go; nothing where the method does not fit."""


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
        build: Makes the adapters.
        needs: What a backbone must have for the method to make sense, for people to read; empty if nothing.
        defaults: Settings it takes, with their defaults.
        trains: What it trains beside the classifier, for people to read.
        official: Whose formulation it equals, and what is deliberately different.
        cannot_merge: Why it cannot become a plain model; empty if it can.
    """

    name: str
    title: str
    paper: str
    build: Build
    needs: str
    defaults: dict[str, Any]
    trains: str
    official: Official
    cannot_merge: str = ""


METHODS: dict[str, Method] = {}


def register_method(
    name: str,
    title: str,
    paper: str = "",
    *,
    needs: str,
    trains: str,
    equal: str,
    different: str = "",
    cannot_merge: str = "",
    learning_rate: float,
    weight_decay: float = 1e-4,
    epochs: int = 10,
    places: tuple[str, ...] = ("targets", "blocks"),
    **sizes: Any,
) -> Callable[[Build], Build]:
    """Enter a method under `name`.

    Args:
        name: How configs call it.
        title: What people call it.
        paper: Where it was described.
        needs: What a backbone must have; empty if nothing.
        trains: What it trains beside the classifier.
        equal: What is equal to which published formulation.
        different: What deliberately is not, and why.
        cannot_merge: Why it cannot become a plain model; empty if it can.
        learning_rate: Default of the optimiser.
        weight_decay: Default of the optimiser.
        epochs: Default of the optimiser.
        places: Which settings choose where it goes.
        sizes: The other settings that it takes, with their defaults.
    """
    optimiser = {"learning_rate": learning_rate, "weight_decay": weight_decay, "epochs": epochs}
    defaults = sizes | {place: sizes.get(place) for place in places} | optimiser

    def enter(build: Build) -> Build:
        official = Official(equal, different)
        METHODS[name] = Method(name, title, paper, build, needs, defaults, trains, official, cannot_merge)
        return build

    return enter
