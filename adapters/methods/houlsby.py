"""Houlsby adapters: a bottleneck after every attention and every MLP (Houlsby et al. 2019,
https://arxiv.org/abs/1902.00751).

    y = h + ReLU(h W_down) W_up    (section 2.1), h the output of the attention or the MLP, before the residual sum

Both projections start close to zero, so that training starts near the backbone itself.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

from torch import nn

from adapters.methods.bottleneck import Bottleneck
from adapters.methods.registry import register_method
from adapters.settings import Placeable, Targeted, rate, size
from adapters.sites import Site

INITIAL_SPREAD = 1e-2  # standard deviation of the initial weights, cut off at twice as much (section 3.1)


@dataclasses.dataclass(frozen=True, kw_only=True)
class HoulsbySettings(Placeable, Targeted):
    """Settings of Houlsby adapters."""

    bottleneck: int = size(8, "Hidden width of each bottleneck.", tried=(8, 32))
    learning_rate: float = rate(1e-2)


@register_method(
    "houlsby",
    "Houlsby adapters",
    "https://arxiv.org/abs/1902.00751",
    settings=HoulsbySettings,
    needs="blocks with an MLP",
    trains="bottlenecks after attention and after MLP",
    equal="the paper's positions and initial spread of 0.01",
    different="the backbone's normalisations stay frozen; in blocks with LayerScale the branch is scaled along",
    cannot_merge="its ReLU lies between the two projections",
)
def houlsby(sites: list[Site], settings: HoulsbySettings) -> Iterator[tuple[Site, Bottleneck]]:
    """After the attention, where there is one, and after the MLP of every block."""
    for site in sites:
        if (site.kind in ("attention", "mlp") or settings.targets) and settings.at(site.name):
            yield site, near_identity(site, settings.at(site.name))


def near_identity(site: Site, width: int) -> Bottleneck:
    """A bottleneck on the site's output with the paper's initial weights."""
    adapter = Bottleneck(site, width, parallel=False)
    for projection in (adapter.down, adapter.up):
        nn.init.trunc_normal_(projection.weight, std=INITIAL_SPREAD, a=-2 * INITIAL_SPREAD, b=2 * INITIAL_SPREAD)
    return adapter
