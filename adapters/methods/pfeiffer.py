"""Pfeiffer adapters: one bottleneck a block, after the MLP (Pfeiffer et al. 2020, https://arxiv.org/abs/2005.00247).

    y = h + ReLU(h W_down) W_up, h the output of the MLP, before the residual sum (figure 3)

Half of Houlsby's, and as good in their search over positions.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

from adapters.methods.bottleneck import Bottleneck
from adapters.methods.houlsby import near_identity
from adapters.methods.registry import register_method
from adapters.settings import Placeable, Targeted, rate, size
from adapters.sites import Site


@dataclasses.dataclass(frozen=True, kw_only=True)
class PfeifferSettings(Placeable, Targeted):
    """Settings of Pfeiffer adapters."""

    bottleneck: int = size(8, "Hidden width of each bottleneck.", tried=(8, 64))
    learning_rate: float = rate(1e-2)


@register_method(
    "pfeiffer",
    "Pfeiffer adapters",
    "https://arxiv.org/abs/2005.00247",
    settings=PfeifferSettings,
    needs="blocks with an MLP",
    trains="bottlenecks after the MLP",
    equal="AdapterHub's position after the MLP",
    different="no further normalisation is added; in blocks with LayerScale the branch is scaled along",
    cannot_merge="its ReLU lies between the two projections",
)
def pfeiffer(sites: list[Site], settings: PfeifferSettings) -> Iterator[tuple[Site, Bottleneck]]:
    """After the MLP of every block."""
    for site in sites:
        if (site.kind == "mlp" or settings.targets) and settings.at(site.name):
            yield site, near_identity(site, settings.at(site.name))
