"""Pfeiffer adapters: one bottleneck a block, after the MLP (Pfeiffer et al. 2020, https://arxiv.org/abs/2005.00247).

    y = h + ReLU(h W_down) W_up, h the output of the MLP, before the residual sum (figure 3)

Half of Houlsby's, and as good in their search over positions.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from adapters.methods.bottleneck import Bottleneck
from adapters.methods.houlsby import near_identity
from adapters.methods.registry import register_method

if TYPE_CHECKING:
    from adapters.config import AdapterConfig
    from adapters.sites import Site


@register_method(
    "pfeiffer",
    "Pfeiffer adapters",
    "https://arxiv.org/abs/2005.00247",
    needs="blocks with an MLP",
    trains="bottlenecks after the MLP",
    equal="AdapterHub's position after the MLP",
    different="no further normalisation is added; in blocks with LayerScale the branch is scaled along",
    cannot_merge="its ReLU lies between the two projections",
    bottleneck=8,
    learning_rate=1e-2,
)
def pfeiffer(sites: list[Site], config: AdapterConfig) -> Iterator[tuple[Site, Bottleneck]]:
    """After the MLP of every block."""
    for site in sites:
        if site.kind == "mlp" or config.targets:
            yield site, near_identity(site, config)
