"""AdaptFormer: a bottleneck parallel to every MLP (Chen et al. 2022, https://arxiv.org/abs/2205.13535).

    z = LN(x),  y = MLP(z) + s * ReLU(z W_down) W_up    (equations 3 and 4)

W_up starts at zero, so that training starts from the backbone itself.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING

from torch import Tensor, nn
from torch.nn import functional as F

from adapters.methods.registry import SiteAdapter, register_method

if TYPE_CHECKING:
    from adapters.config import AdapterConfig
    from adapters.sites import Site

DROPOUT = 0.1  # between the two projections, as in the authors' code


@register_method(
    "adaptformer",
    needs="transformer blocks with an MLP",
    cannot_merge="its ReLU lies between the two projections",
    bottleneck=64,
    scale=0.1,
    learning_rate=1e-2,
    weight_decay=1e-4,
    epochs=10,
)
def adaptformer(sites: list[Site], config: AdapterConfig) -> Iterator[tuple[Site, SiteAdapter]]:
    """Parallel to the MLP of every transformer block."""
    assert config.bottleneck is not None
    assert config.scale is not None
    for site in sites:
        if site.kind == "mlp":
            yield site, ParallelBottleneck(site.width, config.bottleneck, config.scale, like=site.parameter)


class ParallelBottleneck(SiteAdapter):
    """Down, ReLU, up, scaled and added to the site's output."""

    def __init__(self, width: int, bottleneck: int, scale: float, *, like: Tensor) -> None:
        super().__init__()
        self.scale = scale
        self.down = nn.Linear(width, bottleneck, device=like.device, dtype=like.dtype)
        self.up = nn.Linear(bottleneck, width, device=like.device, dtype=like.dtype)
        nn.init.kaiming_uniform_(self.down.weight, a=math.sqrt(5))
        for zero in (self.down.bias, self.up.weight, self.up.bias):
            nn.init.zeros_(zero)

    def forward(self, inputs: Tensor, output: Tensor) -> Tensor:
        """Add the branch."""
        hidden = F.dropout(F.relu(self.down(inputs)), DROPOUT, self.training)
        return output + self.up(hidden) * self.scale
