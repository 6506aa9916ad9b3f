"""LoRA: a low-rank update of frozen weights (Hu et al. 2021, https://arxiv.org/abs/2106.09685).

    y = W x + scale * B A x    (equation 3)    folds into    W' = W + scale * B A

A starts random, B at zero, so that training starts from the backbone itself. For a convolution A is a convolution of
the same geometry into r channels, and B one of 1 x 1.

p: parts of a packed layer (queries, keys, values), r: rank, i: input features, o: output features of a part.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from adapters.errors import ConfigError
from adapters.methods.convolutions import similar_convolution
from adapters.methods.products import add_product
from adapters.methods.registry import register_method
from adapters.methods.site_adapter import SiteAdapter
from adapters.settings import Placeable, Targeted, modules, number, rate, size
from adapters.sites import Site

PACKED = {"qkv": ("q", "k", "v"), "kv": ("k", "v")}  # the parts of layers of these names, in their order


@dataclasses.dataclass(frozen=True, kw_only=True)
class LoraSettings(Placeable, Targeted):
    """Settings of LoRA."""

    rank: int = size(8, "Rank of each update.", tried=(4, 16))
    scale: float = number(1.0, "What the update is multiplied by before it is added: alpha / rank of other packages.")
    targets: tuple[str, ...] = modules(
        ("q", "v"), "Modules to attach to: `q`, `k`, `v`, whole names, ends of names, or last parts such as `fc1`."
    )
    learning_rate: float = rate(5e-3, tried=(0.005, 0.015))


@register_method(
    "lora",
    "LoRA",
    "https://arxiv.org/abs/2106.09685",
    settings=LoraSettings,
    needs="linear layers or ungrouped convolutions inside blocks",
    trains="low-rank updates of linear layers or convolutions",
    equal="PEFT's LoRA, and its file format both ways",
    different=(
        "`scale` stands for alpha / rank, so that changing the rank keeps it; queries and values of a packed layer are"
        " updated separately, as in the paper, where PEFT updates the whole layer"
    ),
)
def lora(sites: list[Site], settings: LoraSettings) -> Iterator[tuple[Site, SiteAdapter]]:
    """At the queries and values of every attention, as in the paper, or wherever `targets` says; in a backbone
    without attention, at every linear layer and ungrouped convolution of the blocks that is at least as wide as the
    rank.
    """
    parts = tuple(part for part in PACKED["qkv"] if part in settings.targets)
    own = {f"{part}_proj" for part in parts}  # where they are layers of their own
    held = {layer: tuple(part for part in names if part in parts) for layer, names in PACKED.items()}
    chosen = [s for s in sites if s.kind == "linear" and (s.role in own or held.get(s.role))]
    called = [s for s in sites if _is_updatable(s) and any(s.is_called(target) for target in settings.targets)]
    chosen += [s for s in called if s not in chosen]
    if not chosen and len(parts) == len(settings.targets):
        chosen = [site for site in sites if _is_updatable(site) and site.block is not None]
    fitting = [site for site in chosen if _full_rank(site) >= settings.at(site.name)]
    if chosen and not fitting:
        widest = max(chosen, key=_full_rank)
        raise ConfigError(
            f"rank={settings.rank} exceeds the full rank {_full_rank(widest)} of {widest.name}; take a smaller one"
        )
    for site in fitting:
        rank = settings.at(site.name)
        if not rank:
            continue
        if site.kind == "conv":
            yield site, LowRankConv(rank, site.module, settings.scale)
        elif site in called or not held.get(site.role) or not _has_equal_parts(site, sites):
            yield site, LowRank(rank, site.module, settings.scale)
        else:
            yield site, LowRankPacked(rank, site.module, settings.scale, held[site.role], PACKED[site.role])


def _has_equal_parts(site: Site, sites: list[Site]) -> bool:
    """Whether the parts of a packed layer are equally wide: a network may have narrower queries and keys than values,
    whose width is that of what comes after the attention.
    """
    name = f"{site.name.removesuffix(site.role)}proj"
    after = next((other for other in sites if other.name == name and other.kind == "linear"), None)
    width, rest = divmod(site.output_width, len(PACKED[site.role]))
    return rest == 0 and (after is None or after.width == width)


def _is_updatable(site: Site) -> bool:
    """Whether it is a linear layer or an ungrouped convolution; the input is its first convolution's second name."""
    is_ungrouped = isinstance(site.module, nn.Conv2d) and site.module.groups == 1
    return site.kind == "linear" or (site.kind == "conv" and is_ungrouped)


def _full_rank(site: Site) -> int:
    weight: Tensor = site.module.weight  # type: ignore[assignment]
    return min(weight.shape[0], weight[0].numel())


class LowRank(SiteAdapter):
    """An update of rank r of a linear layer."""

    def __init__(self, rank: int, module: nn.Module, scale: float) -> None:
        super().__init__()
        weight: Tensor = module.weight  # type: ignore[assignment]
        self.scale = scale
        self.down = nn.Parameter(weight.new_empty(rank, weight.shape[1]))
        self.up = nn.Parameter(weight.new_zeros(weight.shape[0], rank))
        nn.init.kaiming_uniform_(self.down, a=math.sqrt(5))

    def forward(self, inputs: Tensor, output: Tensor) -> Tensor:
        """Add the update."""
        down, up = self.factors()
        return add_product(output, inputs @ down.mT, up, self.scale)

    def folded(self, module: nn.Module, weight: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Into the weight."""
        down, up = self.factors()
        return weight + self.scale * up @ down, bias

    def factors(self) -> tuple[Tensor, Tensor]:
        """A `(r, i)` and B `(o, r)`."""
        return self.down, self.up


class LowRankPacked(LowRank):
    """An update of rank r for each of some parts of a packed layer of queries, keys and values, or of the latter two.

    As one update of the whole layer its A is theirs, stacked, and its B has a block for each part.
    """

    def __init__(
        self, rank: int, module: nn.Module, scale: float, parts: tuple[str, ...], packed: tuple[str, ...]
    ) -> None:
        super().__init__(rank, module, scale)
        self.parts, self.packed = parts, packed
        d_out, d_in = module.weight.shape  # type: ignore[misc]
        self.down = nn.Parameter(self.down.new_empty(len(parts), rank, d_in))
        self.up = nn.Parameter(self.up.new_zeros(len(parts), d_out // len(packed), rank))
        for down in self.down:
            nn.init.kaiming_uniform_(down, a=math.sqrt(5))

    def factors(self) -> tuple[Tensor, Tensor]:
        """A `(p r, i)` and B `(o of all parts, p r)`."""
        zeros = torch.zeros_like(self.up[0])
        rows = [
            torch.cat([self.up[i] if name == part else zeros for i, part in enumerate(self.parts)], dim=1)
            for name in self.packed
        ]
        return self.down.flatten(0, 1), torch.cat(rows)


class LowRankConv(SiteAdapter):
    """An update of a convolution through r channels."""

    def __init__(self, rank: int, module: nn.Module, scale: float) -> None:
        super().__init__()
        assert isinstance(module, nn.Conv2d)
        self.scale = scale
        self.down = similar_convolution(module, rank)
        self.up = nn.Parameter(module.weight.new_zeros(module.out_channels, rank))

    def forward(self, inputs: Tensor, output: Tensor) -> Tensor:
        """Add the update."""
        return output + nn.functional.conv2d(self.down(inputs), self.scale * self.up[..., None, None])

    def folded(self, module: nn.Module, weight: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Into the kernel: each output's update is a mix of the r kernels."""
        return weight + self.scale * torch.einsum("or,rihw->oihw", self.up, self.down.weight), bias
