"""AdaptFormer: a bottleneck parallel to every MLP (Chen et al. 2022, https://arxiv.org/abs/2205.13535).

    z = LN(x),  y = MLP(z) + s * ReLU(z W_down) W_up    (equations 3 and 4)

W_up starts at zero, so that training starts from the backbone itself. The authors' code feeds the branch x instead of
z: `normalised=False` does that. The default is the paper's, which was also the better one on average where both were
tried (docs/pilot.md). In blocks with LayerScale the branch is scaled along with the MLP.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator

from torch import nn

from adapters.errors import ConfigError
from adapters.methods.bottleneck import Bottleneck
from adapters.methods.registry import register_method
from adapters.settings import Placeable, Targeted, number, rate, size, switch
from adapters.sites import Site

DROPOUT = 0.1  # between the two projections, as in the authors' code


@dataclasses.dataclass(frozen=True, kw_only=True)
class AdaptFormerSettings(Placeable, Targeted):
    """Settings of AdaptFormer."""

    bottleneck: int = size(64, "Hidden width of each bottleneck.", tried=(8, 64))
    scale: float = number(0.1, "What the branch is multiplied by before it is added.")
    normalised: bool = switch(True, "Whether the branch sees the features after the normalisation, as the MLP does.")
    learning_rate: float = rate(1e-2)


@register_method(
    "adaptformer",
    "AdaptFormer",
    "https://arxiv.org/abs/2205.13535",
    settings=AdaptFormerSettings,
    needs="blocks with an MLP",
    trains="bottlenecks beside the MLP",
    equal=(
        "equations 3 and 4 of the paper; with `normalised=False` the authors' code, whose branch sees the features "
        "before the normalisation"
    ),
    different="in blocks with LayerScale the branch is scaled along with the MLP",
    cannot_merge="its ReLU lies between the two projections",
)
def adaptformer(sites: list[Site], settings: AdaptFormerSettings) -> Iterator[tuple[Site, Bottleneck]]:
    """Parallel to the MLP of every block."""
    for site in sites:
        if (site.kind == "mlp" or settings.targets) and settings.at(site.name):
            source = None if settings.normalised else _norm_before(site, sites).module
            adapter = Bottleneck(
                site, settings.at(site.name), scale=settings.scale, parallel=True, dropout=DROPOUT, source=source
            )
            nn.init.kaiming_uniform_(adapter.down.weight, a=math.sqrt(5))
            nn.init.zeros_(adapter.up.weight)
            yield site, adapter


def _norm_before(site: Site, sites: list[Site]) -> Site:
    """The normalisation whose output the site gets: the last one before it in its block, of as many features.

    Raises:
        ConfigError: there is none.
    """
    before = sites[: sites.index(site)]
    for other in reversed(before):
        if other.kind == "norm" and other.block == site.block and other.channel_axis == site.channel_axis:
            weight = getattr(other.module, "weight", None)
            if weight is None or len(weight) == site.width:
                return other
    raise ConfigError(f"there is no normalisation before {site.name} to look behind; leave normalised=False out")
