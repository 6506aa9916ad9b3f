"""What the methods share that tune chosen entries of the backbone's own weights, and leave all others frozen.

    W' = W + scatter(delta, index)

Only the chosen entries are parameters: delta is as long as the choice, and so is the optimiser's state.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from adapters.errors import ConfigError
from adapters.methods.site_adapter import SiteAdapter
from adapters.sites import Site


class SparseWeights(SiteAdapter):
    """Changes of some entries of a site's weight.

    It acts through the weight, so that the layer runs once. Autograd forms the gradient of the whole weight for a
    moment, and keeps that of the chosen entries.

    Args:
        module: The site's module.
        count: How many entries; which ones, `choose` says.
    """

    index: Tensor

    def __init__(self, module: nn.Module, count: int) -> None:
        super().__init__()
        self.through_weights = True
        weight: Tensor = module.weight  # type: ignore[assignment]
        self.delta = nn.Parameter(weight.new_zeros(count))
        self.register_buffer("index", weight.new_zeros(count, dtype=torch.int64))

    def choose(self, index: Tensor) -> None:
        """Take these entries, int64 positions in the flattened weight."""
        self.delta = nn.Parameter(self.delta.new_zeros(len(index)))
        self.index = index.to(self.index)

    def folded(self, module: nn.Module, weight: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Into the weight."""
        return weight.flatten().index_add(0, self.index, self.delta).view(weight.shape), bias


def layers_with_weights(sites: list[Site]) -> list[Site]:
    """The linear layers and convolutions, each once (the input is its first convolution)."""
    return [site for site in sites if site.kind in ("linear", "conv")]


def scores_at(scores: Tensor, site: str) -> Tensor:
    """Finite scores, flattened.

    Raises:
        ConfigError: they are NaN or infinite.
    """
    if not scores.isfinite().all():
        raise ConfigError(f"the scores of {site} are not all finite; compute them again")
    return scores.flatten()
