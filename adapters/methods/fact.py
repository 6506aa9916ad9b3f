"""FacT: all updates of the backbone as one tensor train (Jie & Deng 2023, https://arxiv.org/abs/2212.03145).

    W'_l = W_l + s * U S_l V'    (FacT-TT, section 3.2)

U and V are shared by all layers, only the r x r core S_l belongs to one. A layer from q d to p d features is q by p
such matrices side by side, so its core is p r x q r. Backbones of several widths d have one U and V for each. U starts
at zero, so that training starts from the backbone itself.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from adapters.errors import ConfigError
from adapters.methods.products import add_product
from adapters.methods.registry import register_method
from adapters.methods.site_adapter import SiteAdapter
from adapters.settings import Sized, Targeted, number, rate, size
from adapters.sites import Site

DROPOUT = 0.1  # of the core's output, as in the authors' code


@dataclasses.dataclass(frozen=True, kw_only=True)
class FacTSettings(Sized, Targeted):
    """Settings of FacT."""

    rank: int = size(
        16,
        "Rank of the factors that all layers share; by `sizes`, a layer may take less of it.",
        tried=(8, 16),
    )
    scale: float = number(1.0, "What the update is multiplied by before it is added.")
    learning_rate: float = rate(1e-2)


@register_method(
    "fact",
    "FacT",
    "https://arxiv.org/abs/2212.03145",
    settings=FacTSettings,
    needs="linear layers inside blocks",
    trains="low-rank updates with factors that all layers share",
    equal="FacT-TT on all linear layers of the blocks, with its dropout of 0.1",
    different="layers of another width have factors of their own, so that it fits more than plain transformers",
)
def fact(sites: list[Site], settings: FacTSettings) -> Iterator[tuple[Site, TensorTrain]]:
    """At every linear layer of the blocks that is at least as wide as the rank and whose wider side is a multiple of
    the narrower one.
    """
    shared: dict[int, tuple[nn.Parameter, nn.Parameter]] = {}
    chosen = [s for s in sites if s.kind == "linear" and (s.block is not None or settings.targets) and _is_tiled(s)]
    if chosen and settings.rank > max(map(_narrow_side, chosen)):
        widest = max(chosen, key=_narrow_side)
        raise ConfigError(
            f"rank={settings.rank} exceeds the full rank {_narrow_side(widest)} of {widest.name}; take a smaller one"
        )
    for site in chosen:
        weight: Tensor = site.module.weight  # type: ignore[assignment]
        width, rank = _narrow_side(site), settings.at(site.name)
        if rank > settings.rank:
            raise ConfigError(
                f"sizes gives {site.name} rank {rank}, but rank={settings.rank} is that of the shared factors; "
                "take a smaller size"
            )
        if width < settings.rank or not rank:
            continue
        if width not in shared:
            right = nn.Parameter(weight.new_empty(settings.rank, width))
            nn.init.kaiming_uniform_(right, a=math.sqrt(5))
            shared[width] = nn.Parameter(weight.new_zeros(width, settings.rank)), right
        yield site, TensorTrain(site.module, *shared[width], rank, settings.scale)


def _narrow_side(site: Site) -> int:
    return min(site.module.weight.shape)  # type: ignore[arg-type]


def _is_tiled(site: Site) -> bool:
    """Whether the weight is made of square matrices side by side."""
    weight: Tensor = site.module.weight  # type: ignore[assignment]
    return max(weight.shape) % min(weight.shape) == 0


class TensorTrain(SiteAdapter):
    """One layer's core between the factors that all layers share, of which it takes the first `rank` columns."""

    def __init__(self, module: nn.Module, left: nn.Parameter, right: nn.Parameter, rank: int, scale: float) -> None:
        super().__init__()
        weight: Tensor = module.weight  # type: ignore[assignment]
        self.scale = scale
        self.left, self.right = left, right  # U (d, r) and V' (r, d)
        self.rank = rank
        width = len(left)
        d_out, d_in = weight.shape
        self.core = nn.Parameter(weight.new_empty(d_out // width * rank, d_in // width * rank))
        nn.init.kaiming_uniform_(self.core, a=math.sqrt(5))

    def forward(self, inputs: Tensor, output: Tensor) -> Tensor:
        """Add the update."""
        width = len(self.left)
        small = inputs.unflatten(-1, (-1, width)) @ self.right[: self.rank].mT  # (..., q, r)
        mixed = F.linear(small.flatten(-2), self.core)  # (..., p r)
        return add_product(output, F.dropout(mixed, DROPOUT, self.training), self.left[:, : self.rank], self.scale)

    def folded(self, module: nn.Module, weight: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Into the weight."""
        left, right = self.left[:, : self.rank], self.right[: self.rank]
        blocks = self.core.unflatten(0, (-1, self.rank)).unflatten(2, (-1, self.rank))  # (p, r, q, r)
        update = torch.einsum("ia,paqb,bj->piqj", left, blocks, right)
        return weight + self.scale * update.flatten(2).flatten(0, 1), bias
