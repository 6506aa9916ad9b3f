"""BitFit: only the biases learn (Ben Zaken et al. 2021, https://arxiv.org/abs/2106.10199)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from adapters.methods.own_weights import OwnWeights
from adapters.methods.registry import register_method

if TYPE_CHECKING:
    from adapters.config import AdapterConfig
    from adapters.sites import Site


@register_method(
    "bitfit",
    "BitFit",
    "https://arxiv.org/abs/2106.10199",
    needs="layers with a bias",
    learning_rate=1e-2,
)
def bitfit(sites: list[Site], config: AdapterConfig) -> Iterator[tuple[Site, OwnWeights]]:
    """The bias of every linear layer, convolution and normalisation that has one."""
    for site in sites:
        if site.kind in ("linear", "conv", "norm") and getattr(site.module, "bias", None) is not None:
            yield site, OwnWeights(site.module, ["bias"])
