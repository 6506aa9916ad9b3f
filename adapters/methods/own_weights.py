"""The trainable part of the methods that tune the backbone's own weights: copies that take their place."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

from adapters.methods.site_adapter import SiteAdapter


class OwnWeights(SiteAdapter):
    """Own copies of some of the site's parameters and buffers, which take their place while enabled.

    They are exchanged, not shared: at any time every tensor is in one place, so that moving or copying the model
    treats it like any other.
    """

    def __init__(self, module: nn.Module, names: Iterable[str], buffers: Iterable[str] = ()) -> None:
        super().__init__()
        self.enabled = False
        for name in names:
            self.register_parameter(name, nn.Parameter(getattr(module, name).detach().clone()))
        for name in buffers:
            self.register_buffer(name, getattr(module, name).clone())

    @property
    def tunes_statistics(self) -> bool:
        """Whether the site is a batch norm."""
        return bool(self._buffers)

    def enable(self, module: nn.Module, output: nn.Module) -> None:
        """Put the own tensors in the site's place, and keep the site's."""
        self._exchange(module, enabled=True)

    def disable(self, module: nn.Module, output: nn.Module) -> None:
        """Put the site's tensors back."""
        self._exchange(module, enabled=False)

    def tensors(self, module: nn.Module) -> dict[str, Tensor]:
        """The own tensors, wherever they are."""
        holder = module if self.enabled else self
        return {name: getattr(holder, name) for name in (*self._parameters, *self._buffers)}

    @torch.no_grad()
    def fold(self, module: nn.Module) -> None:
        """Overwrite the site's tensors by the own ones."""
        for name in (*self._parameters, *self._buffers):
            getattr(module, name).copy_(getattr(self, name))

    def _exchange(self, module: nn.Module, *, enabled: bool) -> None:
        if enabled == self.enabled:
            return
        self.enabled = enabled
        stores: list[tuple[dict[str, Any], dict[str, Any]]] = [
            (self._parameters, module._parameters),
            (self._buffers, module._buffers),
        ]
        for own, theirs in stores:
            for name in own:
                own[name], theirs[name] = theirs[name], own[name]


def weights_of(module: nn.Module) -> list[str]:
    """The names of the parameters that a module itself owns."""
    return [name for name, weight in module._parameters.items() if weight is not None]


def statistics_of(module: nn.Module) -> list[str]:
    """The names of the running statistics of a batch or instance norm; none for other modules."""
    if not isinstance(module, _NormBase):
        return []
    return [name for name, buffer in module._buffers.items() if buffer is not None]
