"""BitFit: only the biases learn (Ben Zaken et al. 2021, https://arxiv.org/abs/2106.10199)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from adapters.methods.own_weights import OwnWeights, weights_of
from adapters.methods.registry import register_method

if TYPE_CHECKING:
    from adapters.config import AdapterConfig
    from adapters.sites import Site


@register_method(
    "bitfit",
    "BitFit",
    "https://arxiv.org/abs/2106.10199",
    needs="layers with a bias",
    trains="biases",
    equal="every bias of the backbone, an attention's own (`q_bias`, `v_bias`) included",
    learning_rate=1e-2,
)
def bitfit(sites: list[Site], config: AdapterConfig) -> Iterator[tuple[Site, OwnWeights]]:
    """Every bias: of linear layers, convolutions and normalisations, and those that an attention keeps by itself, such
    as BEiT's `q_bias` and `v_bias`.
    """
    for site in sites:
        names = [name for name in weights_of(site.module) if name == "bias" or name.endswith("_bias")]
        if names and site.kind != "input":
            yield site, OwnWeights(site.module, names)
