"""Serial residual adapters: a residual 1 x 1 convolution after every larger one (Rebuffi et al. 2017,
https://arxiv.org/abs/1705.08045, section 3; Rebuffi et al. 2018, https://arxiv.org/abs/1803.10082, equation 2).

    y = F * x + alpha * (F * x)    folds into    G_ij = F_ij + sum_k alpha_ik F_kj

alpha starts at zero, so that training starts from the backbone itself. `batch_norm` gives the task batch norms of its
own, as in both papers. A further one inside the adapter would only rescale alpha: whatever it adds, the batch norm that
follows takes away.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from adapters.methods.own_weights import OwnWeights, statistics_of, weights_of
from adapters.methods.registry import register_method
from adapters.methods.site_adapter import SiteAdapter

if TYPE_CHECKING:
    from adapters.config import AdapterConfig
    from adapters.sites import Site


@register_method(
    "residual_serial",
    "serial residual adapters",
    "https://arxiv.org/abs/1705.08045",
    needs="blocks with convolutions larger than 1 x 1",
    batch_norm=False,
    learning_rate=5e-3,
)
def residual_serial(sites: list[Site], config: AdapterConfig) -> Iterator[tuple[Site, SiteAdapter]]:
    """After the convolutions of the blocks that are larger than 1 x 1."""
    for site in spatial_convolutions(sites, config):
        yield site, Serial(site.module)
    if config.batch_norm:
        yield from own_batch_norms(sites)


def spatial_convolutions(sites: list[Site], config: AdapterConfig) -> list[Site]:
    """The convolutions larger than 1 x 1: those in the blocks, or those targeted."""
    return [
        site
        for site in sites
        if site.kind == "conv" and (site.block is not None or config.targets) and max(site.module.kernel_size) > 1  # type: ignore[arg-type]
    ]


def own_batch_norms(sites: list[Site]) -> Iterator[tuple[Site, OwnWeights]]:
    """Batch norms for this task alone, in the blocks."""
    for site in sites:
        if site.block is not None and statistics_of(site.module):
            yield site, OwnWeights(site.module, weights_of(site.module), statistics_of(site.module))


class Serial(SiteAdapter):
    """A residual 1 x 1 convolution, in the same groups as the site's, on the site's output."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        assert isinstance(module, nn.Conv2d)
        self.groups = module.groups
        channels = module.out_channels
        self.alpha = nn.Parameter(module.weight.new_zeros(channels, channels // self.groups, 1, 1))

    def forward(self, inputs: Tensor, output: Tensor) -> Tensor:
        """Add `alpha * output`."""
        return output + F.conv2d(output, self.alpha, groups=self.groups)

    @torch.no_grad()
    def fold(self, module: nn.Module) -> None:
        """Into the kernel, and into the bias if there is one: each group's outputs are mixed."""
        alpha = self.alpha.view(self.groups, -1, self.alpha.shape[1])  # (group, o, k)
        for tensor in (module.weight, module.bias):
            if tensor is not None:
                grouped = tensor.view(self.groups, alpha.shape[1], -1)  # type: ignore[operator]
                grouped.copy_(grouped + alpha @ grouped)
