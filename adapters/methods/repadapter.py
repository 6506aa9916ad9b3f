"""RepAdapter: a linear bottleneck before every attention and every MLP (Luo et al. 2023,
https://arxiv.org/abs/2302.08106).

    f(x) = x + s * (W_u (W_d x + b_d) + b_u)    (equation 5, W_u block-diagonal in `GROUPS` groups: equation 7)

Nothing in it is nonlinear, so it folds into the linear layer W, b that comes next (equation 11):

    W' = W (I + s W_u W_d),  b' = b + s W (W_u b_d + b_u)

W_u starts at zero, so that training starts from the backbone itself.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from adapters.errors import ConfigError
from adapters.methods.registry import register_method
from adapters.methods.site_adapter import SiteAdapter
from adapters.settings import Placeable, Targeted, number, rate, size
from adapters.sites import Site

GROUPS = 2
DROPOUT = 0.1  # of the hidden features, as in the authors' code
FIRST_LAYERS = ("qkv", "fc1")  # the first linear layer of an attention and of an MLP


@dataclasses.dataclass(frozen=True, kw_only=True)
class RepAdapterSettings(Placeable, Targeted):
    """Settings of RepAdapter."""

    bottleneck: int = size(8, "Hidden width of each bottleneck.", tried=(8, 32))
    scale: float = number(1.0, "What the branch is multiplied by before it is added.")
    learning_rate: float = rate(1e-2)


@register_method(
    "repadapter",
    "RepAdapter",
    "https://arxiv.org/abs/2302.08106",
    settings=RepAdapterSettings,
    needs="attentions with a query-key-value layer or MLPs, with biases",
    trains="linear bottlenecks before attention and MLP",
    equal="the authors' bottleneck in two groups, with its dropout of 0.1",
    different=(
        "on ConvNeXt only before the MLP: before a depthwise convolution it would mix channels, which the plain model "
        "cannot"
    ),
)
def repadapter(sites: list[Site], settings: RepAdapterSettings) -> Iterator[tuple[Site, LinearBottleneck]]:
    """Before the first linear layer of every attention and MLP."""
    for site in sites:
        has_bias = getattr(site.module, "bias", None) is not None
        if site.kind == "linear" and has_bias and (site.role in FIRST_LAYERS or settings.targets):
            bottleneck = settings.at(site.name)
            if bottleneck > site.width:
                raise ConfigError(
                    f"bottleneck={bottleneck} exceeds the width {site.width} of {site.name}; take a smaller one"
                )
            if bottleneck:
                yield site, LinearBottleneck(site.module, bottleneck, settings.scale)


class LinearBottleneck(SiteAdapter):
    """Down, up in groups, scaled and added to the site's input."""

    def __init__(self, module: nn.Module, width: int, scale: float) -> None:
        super().__init__()
        assert isinstance(module, nn.Linear)
        self.scale = scale
        features = module.in_features
        self.groups = GROUPS if features % GROUPS == width % GROUPS == 0 else 1
        self.down = nn.Linear(features, width).to(module.weight)
        self.up = nn.Parameter(module.weight.new_zeros(self.groups, features // self.groups, width // self.groups))
        self.shift = nn.Parameter(module.weight.new_zeros(features))
        nn.init.xavier_uniform_(self.down.weight)
        nn.init.zeros_(self.down.bias)

    def before(self, inputs: Tensor) -> Tensor:
        """Add the branch."""
        hidden = F.dropout(self.down(inputs), DROPOUT, self.training)
        return torch.add(inputs, F.linear(hidden, torch.block_diag(*self.up), self.shift), alpha=self.scale)

    def folded(self, module: nn.Module, weight: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Into weight and bias of the layer that it feeds."""
        up = torch.block_diag(*self.up)
        assert bias is not None
        shift = self.scale * weight @ (up @ self.down.bias + self.shift)
        return weight + self.scale * weight @ up @ self.down.weight, bias + shift
