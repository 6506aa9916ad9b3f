"""BitFit: only the biases learn (Ben Zaken et al. 2021, https://arxiv.org/abs/2106.10199)."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

from adapters.methods.own_weights import OwnWeights, weights_of
from adapters.methods.registry import register_method
from adapters.settings import Targeted, rate
from adapters.sites import Site


@dataclasses.dataclass(frozen=True, kw_only=True)
class BitFitSettings(Targeted):
    """Settings of BitFit."""

    learning_rate: float = rate(1e-2, tried=(0.003, 0.01))


@register_method(
    "bitfit",
    "BitFit",
    "https://arxiv.org/abs/2106.10199",
    settings=BitFitSettings,
    needs="layers with a bias",
    trains="biases",
    equal="every bias of the backbone, an attention's own (`q_bias`, `v_bias`) included",
)
def bitfit(sites: list[Site], settings: BitFitSettings) -> Iterator[tuple[Site, OwnWeights]]:
    """Every bias: of linear layers, convolutions and normalisations, and those that an attention keeps by itself, such
    as BEiT's `q_bias` and `v_bias`.
    """
    for site in sites:
        names = [name for name in weights_of(site.module) if name == "bias" or name.endswith("_bias")]
        if names and site.kind != "input":
            yield site, OwnWeights(site.module, names)
