"""SSF: scale and shift the features after every operation (Lian et al. 2022, https://arxiv.org/abs/2210.08823).

y = g * (W x + b) + s    (equation 1)    folds into    W' = g W, b' = g b + s    (equation 3)
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from adapters.methods.registry import SiteAdapter, register_method

if TYPE_CHECKING:
    from adapters.config import AdapterConfig
    from adapters.sites import Site

INITIAL_SPREAD = 0.02  # standard deviation around scale 1 and shift 0


@register_method(
    "ssf", needs="linear, convolution or normalisation layers", learning_rate=1e-2, weight_decay=1e-4, epochs=10
)
def ssf(sites: list[Site], config: AdapterConfig) -> Iterator[tuple[Site, SiteAdapter]]:
    """After every linear layer, convolution and normalisation that has weights."""
    for site in sites:
        if site.kind in ("linear", "conv", "norm") and getattr(site.module, "weight", None) is not None:
            yield site, ScaleShift(site.module, channel_axis=site.channel_axis)


class ScaleShift(SiteAdapter):
    """One scale and one shift for each channel.

    An operation without bias gets the scale alone: in a plain model its shift would have no place, and the
    normalisation that follows such an operation has a shift of its own.
    """

    def __init__(self, module: nn.Module, *, channel_axis: int) -> None:
        super().__init__()
        weight: Tensor = module.weight  # type: ignore[assignment]
        channels = weight.shape[0]
        self.shape = (channels,) + (1,) * (-channel_axis - 1)
        self.scale = nn.Parameter(weight.new_empty(channels).normal_(1.0, INITIAL_SPREAD))
        self.shift = None
        if module.bias is not None:
            self.shift = nn.Parameter(weight.new_empty(channels).normal_(0.0, INITIAL_SPREAD))

    def forward(self, inputs: Tensor, output: Tensor) -> Tensor:
        """`output * scale + shift` along the channels."""
        scaled = output * self.scale.view(self.shape)
        return scaled if self.shift is None else scaled + self.shift.view(self.shape)

    @torch.no_grad()
    def fold(self, module: nn.Module) -> None:
        """Into weight and bias of a linear layer or convolution, or the affine part of a normalisation."""
        weight: Tensor = module.weight  # type: ignore[assignment]
        weight.mul_(self.scale.view(-1, *(1,) * (weight.ndim - 1)))
        if self.shift is not None:
            module.bias.mul_(self.scale).add_(self.shift)  # type: ignore[operator]
