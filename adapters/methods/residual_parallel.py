"""Parallel residual adapters: a 1 x 1 convolution beside every larger one (Rebuffi et al. 2018,
https://arxiv.org/abs/1803.10082, equation 3).

    y = F * x + alpha * x    folds into    G = F + alpha D, D the centre tap of the kernel

alpha starts at zero, so that training starts from the backbone itself.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

from adapters.methods.registry import register_method
from adapters.methods.residual_serial import own_batch_norms, spatial_convolutions
from adapters.methods.site_adapter import SiteAdapter
from adapters.settings import Targeted, rate, switch
from adapters.sites import Site


@dataclasses.dataclass(frozen=True, kw_only=True)
class ResidualParallelSettings(Targeted):
    """Settings of parallel residual adapters."""

    batch_norm: bool = switch(True, "Whether the batch norms are tuned too, with statistics of the task's own.")
    learning_rate: float = rate(5e-3, tried=(0.005,))


@register_method(
    "residual_parallel",
    "parallel residual adapters",
    "https://arxiv.org/abs/1803.10082",
    settings=ResidualParallelSettings,
    needs="blocks with centred convolutions larger than 1 x 1",
    trains="1 x 1 convolutions beside the larger ones",
    equal=(
        "the authors' adapters beside every larger convolution, the stem's included, with batch norms of the task's own"
    ),
    different=(
        "convolutions whose kernel has no centre on the input's pixels are left out: the adapter would have no place "
        "to fold into"
    ),
)
def residual_parallel(sites: list[Site], settings: ResidualParallelSettings) -> Iterator[tuple[Site, SiteAdapter]]:
    """Beside the convolutions that are larger than 1 x 1 and have a centre, those of the stem included."""
    convolutions = [
        site for site in spatial_convolutions(sites, targeted=settings.targets is not None) if _is_centred(site.module)
    ]
    for site in convolutions:
        yield site, Parallel(site.module)
    if convolutions and settings.batch_norm:
        yield from own_batch_norms(sites)


def _is_centred(module: Any) -> bool:
    """Whether the kernel has a centre that lies on the input's pixels: an odd size, padded by half of it."""
    sizes = zip(module.kernel_size, module.dilation, strict=True)
    return all(k % 2 for k in module.kernel_size) and module.padding == tuple(d * (k // 2) for k, d in sizes)


class Parallel(SiteAdapter):
    """A 1 x 1 convolution, in the same groups and with the same stride as the site's, on the site's input."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        assert isinstance(module, nn.Conv2d)
        self.stride, self.groups = module.stride, module.groups
        self.alpha = nn.Parameter(module.weight.new_zeros(*module.weight.shape[:2], 1, 1))

    def forward(self, inputs: Tensor, output: Tensor) -> Tensor:
        """Add `alpha * inputs`."""
        return output + F.conv2d(inputs, self.alpha, stride=self.stride, groups=self.groups)

    def folded(self, module: nn.Module, weight: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Into the kernel's centre."""
        height, width = weight.shape[2:]
        return weight + F.pad(self.alpha, (width // 2, width // 2, height // 2, height // 2)), bias
