"""FISH mask: the weights of the whole network with the largest Fisher information on the task (Sung et al. 2021,
https://arxiv.org/abs/2111.09839, section 3).

    F_w = 1/N sum_n (d log p(y_n | x_n) / dw)^2,    W' = W + delta at the largest F_w of all weights; the others stay

F is what `adapters.fisher_scores` computes, one image at a time.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor

from adapters.errors import ConfigError
from adapters.methods.registry import register_method
from adapters.methods.sparse_weights import SparseWeights, layers_with_weights, scores_at
from adapters.settings import Targeted, number, rate
from adapters.sites import Site


@dataclasses.dataclass(frozen=True, kw_only=True)
class FISHSettings(Targeted):
    """Settings of the FISH mask."""

    share: float = number(0.005, "Tuned share of all weights.", above=0, at_most=1, tried=(0.005, 0.02))
    learning_rate: float = rate(1e-3, tried=(0.001, 0.003))


def largest_of_all(scores: Mapping[str, Tensor], settings: FISHSettings) -> dict[str, Tensor]:
    """The entries with the largest scores among all weights; sites without any are left out."""
    flat = {site: scores_at(values, site) for site, values in scores.items()}
    values = torch.cat(list(flat.values()))
    kept = values.topk(round(settings.share * len(values)), sorted=False).indices.sort().values
    ends = torch.tensor([len(part) for part in flat.values()], device=kept.device).cumsum(0)
    owner = torch.bucketize(kept, ends, right=True)
    starts = ends - torch.tensor([len(part) for part in flat.values()], device=kept.device)
    chosen = {site: kept[owner == number] - starts[number] for number, site in enumerate(flat)}
    return {site: index for site, index in chosen.items() if len(index)}


@register_method(
    "fish",
    "FISH mask",
    "https://arxiv.org/abs/2111.09839",
    settings=FISHSettings,
    needs="linear layers or convolutions",
    trains="the weights of the network with the largest Fisher",
    equal="the paper's choice by the empirical Fisher, and its share of 0.5%",
    different="only weights of linear layers and convolutions are chosen from; biases and normalisations stay frozen",
    choose=largest_of_all,
    scores="fisher",
)
def fish(sites: list[Site], settings: FISHSettings) -> Iterator[tuple[Site, SparseWeights]]:
    """At every linear layer and convolution; before scores are known, as if each had its share."""
    layers = layers_with_weights(sites)
    total = sum(site.module.weight.numel() for site in layers)  # type: ignore[operator, misc]
    if layers and round(settings.share * total) < 1:
        raise ConfigError(f"share={settings.share:g} of {total} weights is less than one; take more")
    seen = 0
    for site in layers:
        before = round(settings.share * seen)
        seen += site.module.weight.numel()  # type: ignore[operator]
        count = round(settings.share * seen) - before
        yield site, SparseWeights(site.module, count)
