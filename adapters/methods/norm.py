"""Norm tuning: only the normalisations learn, their statistics included where they keep any (batch norm: Frankle et
al. 2020, https://arxiv.org/abs/2003.00152; layer norm: Basu et al. 2023, https://arxiv.org/abs/2304.01610).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

from adapters.methods.own_weights import OwnWeights, statistics_of, weights_of
from adapters.methods.registry import register_method
from adapters.settings import Targeted, rate
from adapters.sites import Site


@dataclasses.dataclass(frozen=True, kw_only=True)
class NormSettings(Targeted):
    """Settings of norm tuning."""

    learning_rate: float = rate(1e-2, tried=(0.003, 0.01))


@register_method(
    "norm",
    "norm tuning",
    "https://arxiv.org/abs/2003.00152",
    settings=NormSettings,
    needs="normalisation layers",
    trains="scales and shifts of the normalisations",
    equal="the affine part of every normalisation",
    different=(
        "running statistics of batch norms are the task's own, too, so that it also fits networks in evaluation mode"
    ),
)
def norm(sites: list[Site], settings: NormSettings) -> Iterator[tuple[Site, OwnWeights]]:
    """Scale and shift of every normalisation."""
    for site in sites:
        names = weights_of(site.module)
        if site.kind == "norm" and names:
            yield site, OwnWeights(site.module, names, statistics_of(site.module))
