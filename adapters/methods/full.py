"""Full fine-tuning: every weight of the backbone learns, batch norms' statistics included."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from adapters.methods.own_weights import OwnWeights, statistics_of, weights_of
from adapters.methods.registry import register_method

if TYPE_CHECKING:
    from adapters.config import AdapterConfig
    from adapters.sites import Site


@register_method(
    "full",
    "full fine-tuning",
    needs="weights",
    trains="everything",
    equal="the usual fine-tuning",
    different="batch norms' running statistics are the task's own, too",
    learning_rate=1e-3,
)
def full(sites: list[Site], config: AdapterConfig) -> Iterator[tuple[Site, OwnWeights]]:
    """Every module that owns weights, each once (the input is its first convolution)."""
    for site in sites:
        names = weights_of(site.module)
        if names and site.kind != "input":
            yield site, OwnWeights(site.module, names, statistics_of(site.module))
