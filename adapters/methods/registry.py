"""The register of the tuning methods, which each file enters its own method into."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Literal, TypeVar

from torch import Tensor, nn

from adapters.methods.site_adapter import SiteAdapter
from adapters.settings import Settings
from adapters.sites import Site
from task2vec_base import Registry

Own = TypeVar("Own", bound=Settings)

ScoreName = Literal["gradient", "fisher"]

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
        choose: From scores of the weights on a task to the entries that are tuned; None where no data are needed.
        scores: Which scores these are; empty without `choose`.
        classifier: From the usual classifier and the method's parts to the one that learns; None where that is the
            usual one.
        only_classifier: Whether nothing but the classifier learns, so that each image is looked at once.
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
    choose: Callable[[Scores, Any], Chosen] | None = None
    scores: ScoreName | Literal[""] = ""
    classifier: Callable[[nn.Module, Sequence[Any]], nn.Module] | None = None
    only_classifier: bool = False

    @property
    def finds_targets(self) -> bool:
        """Whether it finds the modules that `targets` names by itself, some of them parts of a module."""
        targets = self.settings.declared().get("targets")
        return targets is not None and targets.default is not None

    @property
    def defaults(self) -> dict[str, Any]:
        """The settings that it takes, with their defaults."""
        return {name: setting.default for name, setting in self.settings.declared().items()}

    @property
    def size(self) -> str | None:
        """The name of the setting that is its size; None if it has none."""
        return next((name for name, setting in self.settings.declared().items() if setting.is_size), None)


Scores = Mapping[str, Tensor]
"""How much each entry of a weight matters for a task, by the name of its site, each of the weight's shape."""

Chosen = Mapping[str, Tensor]
"""Entries of weights, by the names of their sites: int64, positions in the flattened weight, ascending."""

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
    choose: Callable[[Scores, Own], Chosen] | None = None,
    scores: ScoreName | Literal[""] = "",
    classifier: Callable[[nn.Module, Sequence[Any]], nn.Module] | None = None,
    only_classifier: bool = False,
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
        choose: For a method that tunes chosen entries of the weights: which ones, by scores that `attach` is given.
        scores: With `choose`, which scores: `gradient` (`adapters.gradient_scores`) or `fisher`
            (`adapters.fisher_scores`).
        classifier: For a method with a classifier of its own: makes it from the usual one and the method's parts.
        only_classifier: Whether nothing but the classifier learns.

    Raises:
        ValueError: the name is taken, or `choose` is given without `scores` or `scores` without it.
    """
    if (choose is None) != (scores == ""):
        raise ValueError(f"method {name!r} must give choose= and scores= together, or neither")

    def enter(build: Callable[[list[Site], Own], Parts]) -> Callable[[list[Site], Own], Parts]:
        official = Official(equal, different)
        method = Method(
            name=name,
            title=title,
            paper=paper,
            build=build,
            settings=settings,
            needs=needs,
            trains=trains,
            official=official,
            cannot_merge=cannot_merge,
            choose=choose,
            scores=scores,
            classifier=classifier,
            only_classifier=only_classifier,
        )
        METHODS.enter(name, method)
        return build

    return enter
