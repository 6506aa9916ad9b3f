"""GPS: for every neuron, the incoming connections with the largest gradient on the task (Zhang et al. 2023,
https://arxiv.org/abs/2312.10136, section 3.2).

    W'_ij = W_ij + delta_ij, for the k inputs j of each output i with the largest |dL / dW_ij|; all others stay

L is the supervised contrastive loss of the features, for which no classifier is needed: `adapters.gradient_scores`.

o: output of a layer, i: input, or place in a kernel.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping

from torch import Tensor

from adapters.errors import ConfigError
from adapters.methods.registry import register_method
from adapters.methods.sparse_weights import SparseWeights, layers_with_weights, scores_at
from adapters.settings import Placeable, Targeted, rate, size
from adapters.sites import Site


@dataclasses.dataclass(frozen=True, kw_only=True)
class GPSSettings(Placeable, Targeted):
    """Settings of GPS."""

    connections: int = size(1, "Tuned weights of each neuron; all of them where it has fewer.", tried=(1, 4))
    learning_rate: float = rate(1e-3, tried=(0.001, 0.003))


def largest_of_each_neuron(scores: Mapping[str, Tensor], settings: GPSSettings) -> dict[str, Tensor]:
    """For each row of each weight, the `connections` entries with the largest score, or all where there are fewer."""
    chosen = {}
    for site, values in scores.items():
        rows = scores_at(values, site).view(len(values), -1)  # oi
        columns = rows.topk(min(settings.at(site), rows.shape[1]), dim=1).indices.sort(dim=1).values
        first = rows.shape[1] * columns.new_ones(len(rows)).cumsum(0)[:, None] - rows.shape[1]
        chosen[site] = (first + columns).flatten()
    return chosen


@register_method(
    "gps",
    "GPS",
    "https://arxiv.org/abs/2312.10136",
    settings=GPSSettings,
    needs="linear layers or convolutions",
    trains="the weights of each neuron with the largest gradients",
    equal="the authors' choice: for each neuron the largest gradients of the supervised contrastive loss",
    different="biases stay frozen, where the authors' code trains those outside the normalisations",
    choose=largest_of_each_neuron,
    scores="gradient",
)
def gps(sites: list[Site], settings: GPSSettings) -> Iterator[tuple[Site, SparseWeights]]:
    """At every linear layer and convolution."""
    for site in layers_with_weights(sites):
        weight: Tensor = site.module.weight  # type: ignore[assignment]
        inputs, connections = weight[0].numel(), settings.at(site.name)
        if connections > inputs and site.name in dict(settings.sizes or ()):
            raise ConfigError(
                f"sizes gives {site.name} {connections} connections, but each of its neurons has {inputs}; take fewer"
            )
        if connections:
            yield site, SparseWeights(site.module, min(connections, inputs) * len(weight))
