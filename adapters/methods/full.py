"""Full fine-tuning: every weight of the backbone learns, batch norms' statistics included."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

from adapters.methods.own_weights import OwnWeights, statistics_of, weights_of
from adapters.methods.registry import register_method
from adapters.settings import Targeted, rate
from adapters.sites import Site


@dataclasses.dataclass(frozen=True, kw_only=True)
class FullSettings(Targeted):
    """Settings of full fine-tuning."""

    learning_rate: float = rate(3e-4, tried=(0.0001, 0.0003))


@register_method(
    "full",
    "full fine-tuning",
    settings=FullSettings,
    needs="weights",
    trains="everything",
    equal="the usual fine-tuning",
    different="batch norms' running statistics are the task's own, too",
)
def full(sites: list[Site], settings: FullSettings) -> Iterator[tuple[Site, OwnWeights]]:
    """Every module that owns weights, each once (the input is its first convolution)."""
    for site in sites:
        names = weights_of(site.module)
        if names and site.kind != "input":
            yield site, OwnWeights(site.module, names, statistics_of(site.module))
