"""LoRA: a low-rank update of frozen weights (Hu et al. 2021, https://arxiv.org/abs/2106.09685).

    y = W x + scale * B A x    (equation 3)    folds into    W' = W + scale * B A

A starts random, B at zero, so that training starts from the backbone itself.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from adapters.errors import ConfigError
from adapters.methods.registry import SiteAdapter, register_method

if TYPE_CHECKING:
    from adapters.config import AdapterConfig
    from adapters.sites import Site


@register_method(
    "lora",
    needs="attention with a query-key-value layer, or convolutions inside blocks",
    rank=8,
    scale=1.0,
    learning_rate=5e-3,
    weight_decay=1e-4,
    epochs=10,
)
def lora(sites: list[Site], config: AdapterConfig) -> Iterator[tuple[Site, SiteAdapter]]:
    """At the queries and values of every attention, as in the paper; in a backbone without attention, at the
    ungrouped convolutions inside the blocks.
    """
    assert config.scale is not None
    attention = [site for site in sites if site.kind == "linear" and site.role == "qkv"]
    for site in attention:
        yield site, LowRankQueryValue(_fitting(site, config), site.module, config.scale)
    if attention:
        return
    for site in sites:
        if site.kind == "conv" and site.block is not None and site.module.groups == 1:
            yield site, LowRankConv(_fitting(site, config), site.module, config.scale)


def _fitting(site: Site, config: AdapterConfig) -> int:
    weight: Tensor = site.module.weight  # type: ignore[assignment]
    largest = min(weight.shape[0], weight[0].numel())
    assert config.rank is not None
    if config.rank > largest:
        raise ConfigError(f"rank={config.rank} exceeds the full rank {largest} of {site.name}; take a smaller one")
    return config.rank


class LowRankQueryValue(SiteAdapter):
    """An update of rank r each for the queries and the values of a packed query-key-value layer."""

    def __init__(self, rank: int, module: nn.Module, scale: float) -> None:
        super().__init__()
        weight: Tensor = module.weight  # type: ignore[assignment]
        dim, d_in = weight.shape[0] // 3, weight.shape[1]
        self.scale = scale
        self.down = nn.Parameter(weight.new_empty(2, rank, d_in))
        self.up = nn.Parameter(weight.new_zeros(2, dim, rank))
        for down in self.down:
            nn.init.kaiming_uniform_(down, a=math.sqrt(5))

    def forward(self, inputs: Tensor, output: Tensor) -> Tensor:
        """Add the updates of queries and values; the keys stay."""
        query, value = (inputs @ down.mT @ up.mT * self.scale for down, up in zip(self.down, self.up, strict=True))
        dim = self.up.shape[1]
        query_out, key_out, value_out = output.split(dim, dim=-1)
        return torch.cat([query_out + query, key_out, value_out + value], dim=-1)

    @torch.no_grad()
    def fold(self, module: nn.Module) -> None:
        """Into the rows of the queries and the values."""
        query, value = self.scale * self.up @ self.down
        weight: Tensor = module.weight  # type: ignore[assignment]
        dim = self.up.shape[1]
        weight[:dim].add_(query)
        weight[2 * dim :].add_(value)


class LowRankConv(SiteAdapter):
    """An update through r channels: a convolution of the same geometry, then one of 1 x 1."""

    def __init__(self, rank: int, module: nn.Module, scale: float) -> None:
        super().__init__()
        assert isinstance(module, nn.Conv2d)
        self.scale = scale
        self.down = nn.Conv2d(
            module.in_channels,
            rank,
            module.kernel_size,  # type: ignore[arg-type]
            module.stride,  # type: ignore[arg-type]
            module.padding,  # type: ignore[arg-type]
            module.dilation,  # type: ignore[arg-type]
            bias=False,
            padding_mode=module.padding_mode,
            device=module.weight.device,
            dtype=module.weight.dtype,
        )
        self.up = nn.Parameter(module.weight.new_zeros(module.out_channels, rank))
        nn.init.kaiming_uniform_(self.down.weight, a=math.sqrt(5))

    def forward(self, inputs: Tensor, output: Tensor) -> Tensor:
        """Add the update."""
        return output + nn.functional.conv2d(self.down(inputs), self.up[..., None, None]) * self.scale

    @torch.no_grad()
    def fold(self, module: nn.Module) -> None:
        """Into the kernel: each output's update is a mix of the r kernels."""
        weight: Tensor = module.weight  # type: ignore[assignment]
        weight.add_(self.scale * torch.einsum("or,rihw->oihw", self.up, self.down.weight))
