"""Make a backbone tunable: freeze it, give it a new classifier, and put the method's adapters at its sites."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any, TypeVar

import timm
import torch
from torch import Tensor, nn

from adapters.adapter import Adapter, Adapters, adapters_of, plain, switch, tuned_classes
from adapters.config import AdapterConfig
from adapters.errors import CheckpointError, ConfigError, IncompatibleError
from adapters.methods.registry import METHODS, Chosen, Scores
from adapters.methods.site_adapter import SiteAdapter
from adapters.methods.sparse_weights import SparseWeights
from adapters.proof import example_images, expect_proof, prove, remove_expectation, takes
from adapters.sites import Site, block_names, classifier_names, targeted, walk

Backbone = TypeVar("Backbone", bound=nn.Module)

DEFAULT_NAME = "default"


def attach(
    backbone: Backbone,
    config: AdapterConfig,
    num_classes: int | None = None,
    *,
    name: str = DEFAULT_NAME,
    seed: int | None = None,
    scores: Scores | None = None,
) -> Backbone:
    """Turn a backbone, in place, into one whose adapter and classifier are trainable and whose rest is frozen.

    Args:
        backbone: A timm model, or any module with a linear classifier.
        config: The method and its sizes.
        num_classes: Size of the new classifier; None starts from the present one.
        name: What to call the adapter. A backbone takes several, each with a classifier of its own; the one attached
            last acts until `switch` says otherwise.
        seed: Fixes the initial weights; None draws them from torch's global generator.
        scores: For `gps` and `fish`, how much each weight matters on the task, by the name of its module:
            `adapters.gradient_scores` or `adapters.fisher_scores`.

    Returns:
        The same module, with its adapters in `backbone.adapters`.

    Raises:
        IncompatibleError: the method makes no sense on this backbone; names methods that do. Or the backbone takes no
            classifier of `num_classes`, or an adapter has no effect or fails, as a forward and backward pass on a
            random image shows (on the first real images where the backbone does not say what size it takes).
        ConfigError: the name is taken, there is no such block or module, a size does not fit, or scores are missing.
    """
    return attach_chosen(backbone, config, num_classes, _choice(backbone, config, scores), name=name, seed=seed)


def attach_chosen(
    backbone: Backbone,
    config: AdapterConfig,
    num_classes: int | None,
    chosen: Chosen | None,
    *,
    name: str = DEFAULT_NAME,
    seed: int | None = None,
) -> Backbone:
    """`attach`, with the entries of the weights that are tuned instead of scores, where the method needs any."""
    if config.placement is not None:
        raise ConfigError(
            f"placement={config.placement!r} needs the task: selection.tune measures where its Fisher is, or give that "
            "to adapters.allocate"
        )
    if isinstance(backbone, torch._dynamo.OptimizedModule):
        raise ConfigError("adapters go into the model itself; attach before torch.compile")
    adapters = getattr(backbone, "adapters", None) or Adapters(_frozen(backbone))
    if name in adapters.named:
        raise ConfigError(f"the backbone has an adapter {name!r} already; give another name, or detach it first")
    if not name or "." in name:
        raise ConfigError(f"an adapter cannot be called {name!r}; give a name without dots")
    if num_classes is not None and num_classes < 2:
        raise ConfigError(f"num_classes={num_classes} leaves nothing to tell apart; give at least 2")
    with plain(backbone), nullcontext() if seed is None else _seeded(seed):
        parts = _build(backbone, config, chosen)
        heads = _new_heads(backbone, num_classes)
        own_classifier = METHODS[config.method].classifier
        if own_classifier is not None:
            heads = {key: own_classifier(head, [part for _, part in parts]) for key, head in heads.items()}
    if not adapters.named:
        backbone.adapters = adapters
        backbone.requires_grad_(False)
    former = adapters.active
    adapters.named[name] = Adapter(backbone, config, parts, heads)
    adapters.named[name].train(backbone.training)
    switch(backbone, name)
    images = example_images(backbone)
    with undone_if_failing(backbone, name, former):
        if num_classes is not None and tuned_classes(backbone) != num_classes:
            raise IncompatibleError(
                f"{_describe(backbone)} took no new classifier: it tells {tuned_classes(backbone)} classes apart "
                f"instead of {num_classes}; create it with num_classes={num_classes} and attach without"
            )
        if images is not None and takes(backbone, images):
            prove(backbone, images)
        else:
            expect_proof(backbone)
    return backbone


@contextmanager
def undone_if_failing(backbone: nn.Module, name: str, former: str | None) -> Iterator[None]:
    """Within it, an error takes the adapter of that name off again and lets the former one act."""
    try:
        yield
    except BaseException:
        detach(backbone, name)
        if former is not None:
            switch(backbone, former)
        raise


def detach(backbone: nn.Module, name: str | None = None) -> None:
    """Take one adapter off, or all, in place: what is left is the backbone with its own weights and classifier, and
    after the last one with gradients for the parameters that had them before.
    """
    adapters = adapters_of(backbone)
    if name is None or name == adapters.active:
        switch(backbone, None)
    for gone in list(adapters.named) if name is None else [name]:
        del adapters.named[gone]
    if not adapters.named:
        del backbone.adapters
        remove_expectation(backbone)
        for parameter_name, parameter in backbone.named_parameters():
            parameter.requires_grad_(parameter_name not in adapters.frozen)


def _frozen(backbone: nn.Module) -> frozenset[str]:
    return frozenset(name for name, parameter in backbone.named_parameters() if not parameter.requires_grad)


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        yield


def _choice(backbone: nn.Module, config: AdapterConfig, scores: Scores | None) -> Chosen | None:
    """The entries of the weights that a method chooses by scores; None where it chooses none.

    On torch's meta device weights have no values: there only their number counts, which needs no scores.
    """
    choose = METHODS[config.method].choose
    if choose is None:
        if scores is not None:
            raise ConfigError(f"{config.method} chooses no weights by scores; leave scores= out")
        return None
    if scores is None:
        if next(backbone.parameters()).is_meta:
            return None
        raise ConfigError(
            f"{config.method} chooses weights by their scores on the task; call "
            "adapters.attach(model, config, num_classes, scores=adapters.gradient_scores(model, batches)), "
            "or with adapters.fisher_scores"
        )
    with plain(backbone):
        parts = _build(backbone, config)
    needed = {}
    for site, _ in parts:
        weight: Tensor = site.module.weight  # type: ignore[assignment]
        found = scores.get(site.name)
        if found is None or found.shape != weight.shape:
            told = "none" if found is None else f"of shape {tuple(found.shape)}"
            raise ConfigError(
                f"the scores of {site.name} are {told}, its weight has shape {tuple(weight.shape)}; "
                "compute them on this backbone"
            )
        needed[site.name] = found
    return choose(needed, config.settings)


def _build(backbone: nn.Module, config: AdapterConfig, chosen: Chosen | None = None) -> list[tuple[Site, SiteAdapter]]:
    sites = sites_of(backbone, config)
    method = METHODS[config.method]
    parts = list(method.build(sites, config.settings))
    if not parts and method.needs:
        everywhere = walk(backbone)
        fitting = ", ".join(name for name in sorted(METHODS) if _fits(everywhere, name))
        raise IncompatibleError(
            f"{config.method} does not fit {_describe(backbone)}, which lacks {method.needs}"
            f"{_where(config)}; these do: {fitting}"
        )
    missing = sorted({name for name, number in config.sizes or () if number} - {site.name for site, _ in parts})
    if missing:
        raise ConfigError(f"sizes names {missing[0]}, where {config.method} puts nothing of that size; leave it out")
    return parts if chosen is None else _narrowed(parts, chosen)


def _narrowed(parts: list[tuple[Site, SiteAdapter]], chosen: Chosen) -> list[tuple[Site, SiteAdapter]]:
    """The parts at sites with chosen entries, each with these.

    Raises:
        CheckpointError: entries that were chosen once are none of a weight.
    """
    kept = [(site, part) for site, part in parts if site.name in chosen]
    for site, part in kept:
        assert isinstance(part, SparseWeights)
        index, weight = chosen[site.name], site.module.weight
        if not len(index) or int(index.min()) < 0 or int(index.max()) >= weight.numel():  # type: ignore[operator]
            raise CheckpointError(
                f"what was chosen of {site.name} does not fit the model: entries lie outside its weight; "
                "choose them on this backbone"
            )
        part.choose(index)
    return kept


def sites_of(backbone: nn.Module, config: AdapterConfig) -> list[Site]:
    """The sites that the config leaves to the method."""
    sites = walk(backbone)
    if config.targets is not None and not METHODS[config.method].finds_targets:
        sites = targeted(sites, backbone, config.targets)
    if config.blocks is not None:
        count = len(block_names(backbone))
        if config.blocks and not 0 <= config.blocks[0] <= config.blocks[-1] < count:
            raise ConfigError(f"blocks={config.blocks} lie outside the backbone's blocks 0 to {count - 1}")
        sites = [site for site in sites if site.block in config.blocks]
    return sites


def _fits(sites: list[Site], method: str) -> bool:
    entry = METHODS[method]
    smallest: dict[str, Any] = {} if entry.size is None else {entry.size: 1}
    settings = entry.settings(**smallest)
    try:
        return not entry.needs or any(True for _ in entry.build(sites, settings))
    except ConfigError:
        return False


def _new_heads(backbone: nn.Module, num_classes: int | None) -> dict[str, nn.Module]:
    """New classifiers in place of the present ones, which stay where they are."""
    present = {name: backbone.get_submodule(name) for name in classifier_names(backbone)}
    if num_classes is None:
        if not all(list(head.parameters()) for head in present.values()):
            raise ConfigError(f"{_describe(backbone)} has no classifier to start from; give num_classes")
        return copy.deepcopy(present)
    if not hasattr(backbone, "reset_classifier"):
        (name, old), *_ = present.items()
        assert isinstance(old, nn.Linear)
        return {name: nn.Linear(old.in_features, num_classes).to(old.weight)}
    # timm replaces more than the classifier where a normalisation stands in the same module.
    tables = ("_modules", "_parameters", "_buffers")
    before = {m: vars(m) | {table: dict(vars(m)[table]) for table in tables} for m in backbone.modules()}
    backbone.reset_classifier(num_classes)  # type: ignore[operator]
    heads = {name: backbone.get_submodule(name) for name in present}
    # Sequencer and SAM change their classifier in place; as that one goes back, the adapter takes a copy.
    heads = {name: copy.deepcopy(head) if head is present[name] else head for name, head in heads.items()}
    for module, attributes in before.items():
        vars(module).update(attributes)
    return heads


def _where(config: AdapterConfig) -> str:
    given = [f"{name}={getattr(config, name)}" for name in ("targets", "blocks") if getattr(config, name)]
    return f" in {' and '.join(given)}" if given and not METHODS[config.method].finds_targets else ""


def _describe(backbone: nn.Module) -> str:
    config = getattr(backbone, "pretrained_cfg", None) or {}
    name = config.get("architecture") or type(backbone).__name__
    return f"{name} (timm {timm.__version__})" if config else str(name)
