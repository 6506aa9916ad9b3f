"""Make a backbone tunable: freeze it, give it a new classifier, and hang the method's adapters onto its sites.

The backbone keeps its class, its modules and the names of its weights. Adapters live beside them, in
`backbone.adapter`, and act through forward hooks.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any, TypeVar

import timm
import torch
from torch import Tensor, nn

from adapters.config import AdapterConfig
from adapters.errors import ConfigError, IncompatibleError
from adapters.methods.registry import METHODS, SiteAdapter
from adapters.sites import Site, block_names, classifier_name, walk

Backbone = TypeVar("Backbone", bound=nn.Module)


class Adapter(nn.Module):
    """Everything that is tuned beside the classifier: one module for each site, and the config that made them."""

    def __init__(self, config: AdapterConfig, parts: list[tuple[Site, SiteAdapter]]) -> None:
        super().__init__()
        self.config = config
        # Names of modules must not contain dots.
        self.sites = nn.ModuleDict({site.name.replace(".", "/"): module for site, module in parts})

    def forward(self, output: Tensor) -> Tensor:
        """Passes on what it gets: in a backbone that is an `nn.Sequential`, this is the last step."""
        return output

    def items(self) -> list[tuple[str, SiteAdapter]]:
        """The site's name and its adapter, for each site."""
        return [(key.replace("/", "."), module) for key, module in self.sites.items()]  # type: ignore[misc]


class AdapterHook:
    """Replaces a site's output by its adapter's."""

    def __init__(self, adapter: SiteAdapter) -> None:
        self.adapter = adapter

    def __call__(self, _: nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor:
        """Called by the site after its own forward pass."""
        return self.adapter(args[0], output)


def attach(
    backbone: Backbone, config: AdapterConfig, num_classes: int | None = None, *, seed: int | None = None
) -> Backbone:
    """Turn a backbone, in place, into one whose adapter and classifier are trainable and whose rest is frozen.

    Args:
        backbone: A timm model, or any module with a linear classifier.
        config: The method and its sizes.
        num_classes: Size of the new classifier; None keeps the present one.
        seed: Fixes the initial weights; None draws them from torch's global generator.

    Returns:
        The same module, with its adapters in `backbone.adapter`.

    Raises:
        IncompatibleError: the method makes no sense on this backbone; names methods that do.
        ConfigError: an adapter is attached already, there is no such block, or a size does not fit.
    """
    if hasattr(backbone, "adapter"):
        raise ConfigError("the backbone has an adapter already; merge it or start from a fresh backbone")
    with nullcontext() if seed is None else _seeded(seed):
        parts = _build(backbone, config)
        if num_classes is not None:
            _reset_classifier(backbone, num_classes)
    backbone.requires_grad_(False)
    backbone.get_submodule(classifier_name(backbone)).requires_grad_(True)
    for site, module in parts:
        module.requires_grad_(True)
        backbone.get_submodule(site.output).register_forward_hook(AdapterHook(module))
    backbone.adapter = Adapter(config, parts)
    return backbone


def detach(backbone: nn.Module) -> None:
    """Take the adapters off again, in place, and leave the backbone as it was but for its classifier."""
    for module in backbone.modules():
        hooks = module._forward_hooks
        for key in [key for key, hook in hooks.items() if isinstance(hook, AdapterHook)]:
            del hooks[key]
    del backbone.adapter


def adapter_of(model: nn.Module) -> Adapter:
    """The adapter that `attach` put there.

    Raises:
        ConfigError: there is none.
    """
    adapter = getattr(model, "adapter", None)
    if not isinstance(adapter, Adapter):
        raise ConfigError(f"{type(model).__name__} has no adapter; call adapters.attach(model, config) first")
    return adapter


def tuned_parameters(model: nn.Module) -> dict[str, nn.Parameter]:
    """The trainable parameters, adapter and classifier, by name."""
    return {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}


def num_adapter_parameters(model: nn.Module) -> int:
    """How many parameters are trainable beside the classifier's, which is how the papers count."""
    head = classifier_name(model)
    return sum(p.numel() for name, p in tuned_parameters(model).items() if not name.startswith(f"{head}."))


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        yield


def _build(backbone: nn.Module, config: AdapterConfig) -> list[tuple[Site, SiteAdapter]]:
    sites = walk(backbone)
    if config.blocks is not None:
        count = len(block_names(backbone))
        if config.blocks and not 0 <= config.blocks[0] <= config.blocks[-1] < count:
            raise ConfigError(f"blocks={config.blocks} lie outside the backbone's blocks 0 to {count - 1}")
        sites = [site for site in sites if site.block in config.blocks]
    method = METHODS[config.method]
    parts = list(method.build(sites, config))
    if not parts and method.build is not METHODS["linear"].build:
        fitting = ", ".join(name for name in sorted(METHODS) if name == "linear" or _fits(sites, name))
        raise IncompatibleError(
            f"{config.method} does not fit {_describe(backbone)}, which lacks {method.needs}; these do: {fitting}"
        )
    return parts


def _fits(sites: list[Site], method: str) -> bool:
    smallest = {name: 1 for name in ("bottleneck", "rank") if name in METHODS[method].defaults}
    return any(True for _ in METHODS[method].build(sites, AdapterConfig(method, **smallest)))  # type: ignore[arg-type]


def _reset_classifier(backbone: nn.Module, num_classes: int) -> None:
    if num_classes < 2:
        raise ConfigError(f"num_classes={num_classes} leaves nothing to tell apart; give at least 2")
    if hasattr(backbone, "reset_classifier"):
        backbone.reset_classifier(num_classes)  # type: ignore[operator]
        return
    name = classifier_name(backbone)
    parent, _, child = name.rpartition(".")
    old = backbone.get_submodule(name)
    assert isinstance(old, nn.Linear)
    new = nn.Linear(old.in_features, num_classes, device=old.weight.device, dtype=old.weight.dtype)
    setattr(backbone.get_submodule(parent), child, new)


def _describe(backbone: nn.Module) -> str:
    config = getattr(backbone, "pretrained_cfg", None) or {}
    name = config.get("architecture") or type(backbone).__name__
    return f"{name} (timm {timm.__version__})" if config else str(name)
