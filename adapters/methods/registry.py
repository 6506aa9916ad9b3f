"""The contract of the tuning methods and the register that they enter themselves into.

A method says at which sites of a backbone it attaches and what it computes there. What it computes is a `SiteAdapter`:
a module that sees a site's inputs and output and gives the output's replacement.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from adapters.errors import MergeError

if TYPE_CHECKING:
    from adapters.config import AdapterConfig
    from adapters.sites import Site


class SiteAdapter(nn.Module):
    """The trainable part at one site."""

    def forward(self, inputs: Tensor, output: Tensor) -> Tensor:
        """What the site gives instead of `output`, same shape."""
        raise NotImplementedError

    def fold(self, module: nn.Module) -> None:
        """Change the site's own weights, in place, so that it computes the same without this adapter.

        Raises:
            MergeError: the method cannot be folded.
        """
        raise MergeError(f"{type(self).__name__} cannot be folded into {type(module).__name__}")


Build = Callable[[list["Site"], "AdapterConfig"], Iterator[tuple["Site", SiteAdapter]]]
"""From a backbone's sites and a config to the adapters and where they go."""


@dataclasses.dataclass(frozen=True)
class Method:
    """One way to tune.

    Attributes:
        name: How configs call it.
        build: Makes the adapters.
        needs: What a backbone must have for the method to make sense, for people to read.
        defaults: Sizes it takes and optimiser settings, with their defaults.
        cannot_merge: Why it cannot become a plain model; empty if it can.
    """

    name: str
    build: Build
    needs: str
    defaults: dict[str, Any]
    cannot_merge: str = ""


METHODS: dict[str, Method] = {}


def register_method(name: str, *, needs: str, cannot_merge: str = "", **defaults: Any) -> Callable[[Build], Build]:
    """Enter a method under `name`, with its sizes and optimiser settings as `defaults`."""

    def enter(build: Build) -> Build:
        METHODS[name] = Method(name, build, needs, defaults, cannot_merge)
        return build

    return enter
