"""A configuration whose sizes differ from place to place, within a budget of trainable parameters."""

from __future__ import annotations

import copy
import dataclasses
import functools
import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import timm
import torch
from torch import Tensor, nn

from adapters.adapter import Adapters
from adapters.attach import detach, sites_of
from adapters.config import AdapterConfig
from adapters.errors import ConfigError
from adapters.methods.registry import METHODS
from adapters.methods.sparse_weights import layers_with_weights
from adapters.placement.budget import fill
from adapters.placement.rules import RULES, Array, Places
from adapters.settings import InBlocks, Sized
from adapters.sites import Site, block_names

LayerScores = Mapping[str, float] | Mapping[str, Tensor]
"""How much each layer of a backbone matters, by its module's name: a number, or one for each weight."""


@dataclasses.dataclass(frozen=True)
class _Place:
    """Somewhere that a size can be chosen for: a site, or a whole block.

    Attributes:
        name: The module's name.
        depth: From 0 at the input to 1 at the output.
        layers: The linear layers and convolutions there, with the number of their weights.
    """

    name: str
    depth: float
    layers: dict[str, int]


def allocate(
    config: AdapterConfig,
    scores: LayerScores | None,
    backbone: str | nn.Module,
    *,
    parameters: int,
    rule: str = "mass",
    reference: Sequence[LayerScores] = (),
    seed: int = 0,
) -> AdapterConfig:
    """The configuration with its parameters where a rule wants them.

    Methods with a size of their own at each site get `sizes` (ranks, widths, prompts, connections); the others get the
    `blocks` that carry them. `fish` gets the share of the weights that is the budget: where they lie, its scores say.

    Args:
        config: What to allocate; its size is not used, except as the rank of the factors that FacT's layers share.
        scores: How much each layer matters on the task, by name: `task2vec.sensitivity(task, backbone).mass`, say. None
            for the rules that need none.
        backbone: What will be tuned, or its name in timm; only its structure matters.
        parameters: The budget: at most so many trainable parameters beside the classifier's. It is filled as far as the
            sizes allow.
        rule: One of `adapters.RULES`.
        reference: Scores of other tasks on the same backbone, for rules that compare with them.
        seed: For rules that draw.

    Raises:
        ConfigError: the budget is too small for anything, the method has nothing to allocate, the scores say nothing of
            a place, or there is no such rule.
    """
    if rule not in RULES:
        raise ConfigError(f"there is no rule of placement {rule!r}; choose from {', '.join(sorted(RULES))}")
    model = _structure(backbone)
    sites = sites_of(model, config)
    if "share" in config.settings.declared():  # of all weights
        total = sum(site.module.weight.numel() for site in layers_with_weights(sites))  # type: ignore[operator, misc]
        if parameters < 1:
            raise ConfigError(f"parameters={parameters} leaves nothing to tune; give at least 1")
        return config.replace(share=min(1.0, parameters / total))
    chosen = _by_site if isinstance(config.settings, Sized) else _by_block
    places, cost, shared = chosen(model, config, sites)
    if len(places) < 2:
        raise ConfigError(
            f"{config.method} has parameters at {'one place' if places else 'no place'} of {type(model).__name__}; "
            "give more blocks or targets, or choose a method with several, such as lora"
        )
    known = Places(
        depth=np.array([place.depth for place in places]),
        cost=np.array([cost(number, 1) for number in range(len(places))], np.float64),
        weights=np.array([sum(place.layers.values()) for place in places], np.float64),
        mass=None if scores is None else _masses(places, scores),
        reference=np.stack([_masses(places, other) for other in reference]) if reference else None,
        generator=np.random.default_rng(seed),
    )
    weights = np.asarray(RULES[rule](known), np.float64)
    if weights.shape != (len(places),) or not np.isfinite(weights).all() or (weights < 0).any() or not weights.any():
        raise ConfigError(f"the rule {rule} gave no shares; the scores may all be 0")
    sizes = fill(weights.tolist(), cost, parameters - shared)
    if not any(sizes):
        least = shared + min(known.cost[weights > 0])
        raise ConfigError(
            f"parameters={parameters} is too few for {config.method}, which takes {least:.0f} here or more"
        )
    if isinstance(config.settings, Sized):
        return config.replace(placement=None, sizes={p.name: size for p, size in zip(places, sizes, strict=True)})
    names = block_names(model)
    return config.replace(blocks=tuple(names.index(p.name) for p, size in zip(places, sizes, strict=True) if size))


Cost = Callable[[int, int], float]
"""Parameters of an adapter of a size at a place, by its number; infinite where there is no such size."""


def _by_site(model: nn.Module, config: AdapterConfig, sites: list[Site]) -> tuple[list[_Place], Cost, int]:
    """The sites of a method with a size at each, the cost of a size, and the parameters that sites share."""
    build, usual = METHODS[config.method].build, config.replace(sizes=None, placement=None).settings
    parts = [(site, part) for site, part in build(sites, usual) if any(True for _ in part.parameters())]
    uses = Counter(id(p) for _, part in parts for p in part.parameters())
    shared_names = {n for _, part in parts for n, p in part.named_parameters() if uses[id(p)] > 1}
    shared = {id(p): p.numel() for _, part in parts for p in part.parameters() if uses[id(p)] > 1}
    names = [site.name for site, _ in parts]

    @functools.cache
    def cost(place: int, size: int) -> float:
        if size == 0:
            return 0
        alone = {name: size if number == place else 0 for number, name in enumerate(names)}
        try:
            built = list(build(sites, dataclasses.replace(usual, sizes=alone)))  # type: ignore[call-arg]
        except ConfigError:  # larger than the site
            return math.inf
        own = [p.numel() for _, part in built for name, p in part.named_parameters() if name not in shared_names]
        return sum(own) if own else math.inf

    depths = _depths(model, sites)
    return [_Place(name, depths[name], _layers_in(model, name)) for name in names], cost, sum(shared.values())


def _by_block(model: nn.Module, config: AdapterConfig, sites: list[Site]) -> tuple[list[_Place], Cost, int]:
    """The blocks of a method that is in a block or not, and what it costs there."""
    costs: Counter[int] = Counter()
    if isinstance(config.settings, InBlocks):
        for site, part in METHODS[config.method].build(sites, config.settings):
            if site.block is not None:
                costs[site.block] += sum(p.numel() for p in part.parameters())
    blocks = sorted(block for block, count in costs.items() if count)
    names = block_names(model)
    places = [_Place(names[b], b / len(names), _layers_in(model, names[b])) for b in blocks]
    return places, lambda place, size: {0: 0, 1: costs[blocks[place]]}.get(size, math.inf), 0


def _depths(model: nn.Module, sites: list[Site]) -> dict[str, float]:
    """For each site its block's number over the number of blocks; 0 before the blocks and 1 after them."""
    count, found, inside = len(block_names(model)), {}, False
    for site in sites:
        inside = inside or site.block is not None
        found[site.name] = site.block / count if site.block is not None else float(inside)
    return found


def _layers_in(model: nn.Module, name: str) -> dict[str, int]:
    """The linear layers and convolutions in a module, or the one that it is, with the number of their weights."""
    return {
        own: module.weight.numel()
        for own, module in model.named_modules()
        if isinstance(module, (nn.Linear, nn.Conv2d)) and (own == name or own.startswith(f"{name}."))
    }


def _masses(places: Sequence[_Place], scores: LayerScores) -> Array:
    """The summed scores of each place's layers, `(S,)`."""
    sums = {name: float(torch.as_tensor(values).double().sum()) for name, values in scores.items()}
    wrong = next((name for name, value in sums.items() if not (math.isfinite(value) and value >= 0)), None)
    if wrong is not None:
        raise ConfigError(f"the score of {wrong} is {sums[wrong]}; scores are finite numbers of at least 0")
    unknown = next((place.name for place in places if not set(place.layers) & set(sums)), None)
    if unknown is not None:
        raise ConfigError(f"the scores say nothing of {unknown}; compute them on this backbone")
    return np.array([sum(sums.get(layer, 0.0) for layer in place.layers) for place in places])


def _structure(backbone: str | nn.Module) -> nn.Module:
    """The backbone without its numbers and adapters."""
    if isinstance(backbone, str):
        with torch.device("meta"):
            model: nn.Module = timm.create_model(backbone)
        return model
    copied = copy.deepcopy(backbone).to("meta")
    if isinstance(getattr(copied, "adapters", None), Adapters):
        detach(copied)
    return copied
