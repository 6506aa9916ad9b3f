"""Serial residual adapters: a residual 1 x 1 convolution after every larger one (Rebuffi et al. 2017,
https://arxiv.org/abs/1705.08045, section 3; Rebuffi et al. 2018, https://arxiv.org/abs/1803.10082, equation 2).

    y = F * x + alpha * (F * x)    folds into    G_ij = F_ij + sum_k alpha_ik F_kj

alpha starts at zero, so that training starts from the backbone itself. `batch_norm` gives the task batch norms of its
own, as in both papers. A further one inside the adapter would only rescale alpha: whatever it adds, the batch norm that
follows takes away.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

from torch import Tensor, nn
from torch.nn import functional as F

from adapters.methods.own_weights import OwnWeights, statistics_of, weights_of
from adapters.methods.registry import register_method
from adapters.methods.site_adapter import SiteAdapter
from adapters.settings import Targeted, rate, switch
from adapters.sites import Site


@dataclasses.dataclass(frozen=True, kw_only=True)
class ResidualSerialSettings(Targeted):
    """Settings of serial residual adapters."""

    batch_norm: bool = switch(True, "Whether the batch norms are tuned too, with statistics of the task's own.")
    learning_rate: float = rate(5e-3, tried=(0.005,))


@register_method(
    "residual_serial",
    "serial residual adapters",
    "https://arxiv.org/abs/1705.08045",
    settings=ResidualSerialSettings,
    needs="blocks with convolutions larger than 1 x 1",
    trains="1 x 1 convolutions after the larger ones",
    equal=(
        "the authors' adapters after every larger convolution, the stem's included, with batch norms of the task's own"
    ),
    different="no batch norm inside the adapter: the one that follows takes away whatever it would add",
)
def residual_serial(sites: list[Site], settings: ResidualSerialSettings) -> Iterator[tuple[Site, SiteAdapter]]:
    """After the convolutions that are larger than 1 x 1, those of the stem included."""
    convolutions = spatial_convolutions(sites, targeted=settings.targets is not None)
    for site in convolutions:
        yield site, Serial(site.module)
    if convolutions and settings.batch_norm:
        yield from own_batch_norms(sites)


def spatial_convolutions(sites: list[Site], *, targeted: bool, stem: bool = True) -> list[Site]:
    """The convolutions larger than 1 x 1, all of them where they were named; none where no block has any.

    Args:
        sites: Of a backbone.
        targeted: Whether these sites were named, so that all of them are meant.
        stem: Whether those outside the blocks belong to them.
    """
    found = [site for site in sites if site.kind == "conv" and max(site.module.kernel_size) > 1]  # type: ignore[arg-type]
    in_blocks = [site for site in found if site.block is not None]
    return found if targeted or (stem and in_blocks) else in_blocks


def own_batch_norms(sites: list[Site]) -> Iterator[tuple[Site, OwnWeights]]:
    """Batch norms for this task alone."""
    for site in sites:
        if statistics_of(site.module):
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

    def folded(self, module: nn.Module, weight: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Into the kernel, and into the bias if there is one: each group's outputs are mixed."""
        return self._mixed(weight), None if bias is None else self._mixed(bias)

    def _mixed(self, tensor: Tensor) -> Tensor:
        alpha = self.alpha.reshape(self.groups, -1, self.alpha.shape[1])  # (group, o, k)
        grouped = tensor.reshape(self.groups, alpha.shape[1], -1)
        return (grouped + alpha @ grouped).reshape(tensor.shape)
