"""Conv-Adapter: a depthwise bottleneck beside every convolution of a kernel (Chen et al. 2022,
https://arxiv.org/abs/2208.07463).

    y = F * x + a o (W_up * ReLU(W_down * x))    ("convolution parallel", section 3.3)

W_down has the kernel of F in one group for each hidden channel, W_up is 1 x 1, a scales channels and starts at one.
W_up starts at zero, so that training starts from the backbone itself.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator

from torch import Tensor, nn
from torch.nn import functional as F

from adapters.errors import ConfigError
from adapters.methods.convolutions import similar_convolution
from adapters.methods.registry import register_method
from adapters.methods.residual_serial import spatial_convolutions
from adapters.methods.site_adapter import SiteAdapter
from adapters.settings import Targeted, rate, size
from adapters.sites import Site


@dataclasses.dataclass(frozen=True, kw_only=True)
class ConvAdapterSettings(Targeted):
    """Settings of Conv-Adapter."""

    reduction: int = size(4, "What the channels of a convolution are divided by inside its adapter.", tried=(4, 8))
    learning_rate: float = rate(5e-3)


@register_method(
    "conv_adapter",
    "Conv-Adapter",
    "https://arxiv.org/abs/2208.07463",
    settings=ConvAdapterSettings,
    needs="blocks with convolutions larger than 1 x 1",
    trains="depthwise bottlenecks beside the larger convolutions",
    equal="the paper's `convolution parallel` form",
    different="grouped by the greatest common divisor where channels and hidden channels do not divide",
    cannot_merge="its ReLU lies between the two convolutions",
)
def conv_adapter(sites: list[Site], settings: ConvAdapterSettings) -> Iterator[tuple[Site, ConvBottleneck]]:
    """Beside the convolutions of the blocks that are larger than 1 x 1."""
    for site in spatial_convolutions(sites, targeted=settings.targets is not None, stem=False):
        if settings.reduction > site.width:
            raise ConfigError(
                f"reduction={settings.reduction} exceeds the {site.width} channels of {site.name}; take a smaller one"
            )
        yield site, ConvBottleneck(site.module, site.width // settings.reduction)


class ConvBottleneck(SiteAdapter):
    """A convolution of the site's geometry down to few channels, ReLU, and one of 1 x 1 up, scaled by channel."""

    def __init__(self, module: nn.Module, channels: int) -> None:
        super().__init__()
        assert isinstance(module, nn.Conv2d)
        self.down = similar_convolution(module, channels, groups=math.gcd(module.in_channels, channels))
        self.up = nn.Parameter(module.weight.new_zeros(module.out_channels, channels, 1, 1))
        self.scale = nn.Parameter(module.weight.new_ones(module.out_channels))

    def forward(self, inputs: Tensor, output: Tensor) -> Tensor:
        """Add the branch."""
        return output + self.scale[:, None, None] * F.conv2d(F.relu(self.down(inputs)), self.up)
