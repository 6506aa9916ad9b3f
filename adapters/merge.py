"""Fold an adapter into the backbone's own weights: a plain model that knows nothing of adapters."""

from __future__ import annotations

import copy
from collections import Counter

import timm.layers
import torch
from torch import nn

from adapters.adapter import adapter_of, forget_derived, plain, replace_classifier, switch
from adapters.attach import Backbone, detach
from adapters.errors import MergeError
from adapters.methods.own_weights import OwnWeights
from adapters.methods.registry import METHODS
from adapters.proof import evaluating, known_images
from adapters.sites import classifier_names

STANDARDISED = (  # convolutions whose kernel is normalised in each forward pass
    timm.layers.StdConv2d,
    timm.layers.StdConv2dSame,
    timm.layers.ScaledStdConv2d,
    timm.layers.ScaledStdConv2dSame,
)

TOLERANCE = 1e-6  # of the largest output, in double precision


@torch.no_grad()
def merge(model: Backbone) -> Backbone:
    """A plain copy of the model, with exactly the weights' names of the untouched backbone.

    The active adapter is folded in, and its classifier stays. The folding is done in double precision and rounded
    once. `model` stays as it is. Normalisation layers must use their stored statistics, as in evaluation mode, for
    the merged model to compute the same.

    Raises:
        MergeError: the method cannot merge (says why), a weight is NaN or infinite, or the merged model computes
            something else, as where a network reads a weight of a layer that it also calls.
    """
    reason = why_unmergeable(model)
    if reason:
        raise MergeError(f"{adapter_of(model).config.method} cannot merge{reason}; keep the model with its adapter")
    wrong = [name for name, value in model.state_dict().items() if not torch.isfinite(value).all()]
    if wrong:
        raise MergeError(f"{wrong[0]} has NaN or infinite values; train again with a lower learning rate")
    merged = copy.deepcopy(model)
    home = next(merged.parameters()).device
    merged.cpu()  # some accelerators have no double precision
    adapter = adapter_of(merged)
    heads = {name: merged.get_submodule(name) for name in classifier_names(merged)}
    dtypes = {name: tensor.dtype for name, tensor in _tensors(merged)}  # with the tuned classifier in its place
    merged.double()
    images = known_images(merged)
    expected = None if images is None else _outputs(merged, images)
    switch(merged, None)
    for part in adapter.parts:
        part.adapter.fold(part.module)
    detach(merged)
    for name, head in heads.items():
        replace_classifier(merged, name, head.double())
    forget_derived(merged)
    found = None if images is None else _outputs(merged, images)
    if found is not None and expected is not None:
        apart = (found - expected).abs().max() / expected.abs().max().clamp(min=1e-12)
        if not apart <= TOLERANCE:
            raise MergeError(
                f"{adapter.config.method} merged into {type(model).__name__} computes something else, by "
                f"{100 * float(apart):.2g}% of the largest output, as if one of its layers were also used without "
                "being called; keep the model with its adapter"
            )
    for name, tensor in _tensors(merged):
        tensor.data = tensor.data.to(dtypes[name])
    forget_derived(merged)
    return merged.to(home).requires_grad_(True)


def why_unmergeable(model: Backbone) -> str:
    """What keeps the active adapter from being folded into the weights; empty where nothing does."""
    adapter = adapter_of(model)
    method = METHODS[adapter.config.method]
    if method.cannot_merge:
        return f": {method.cannot_merge}"
    with plain(model):
        # A module that goes by two names is one.
        uses = Counter(id(tensor) for module in model.modules() for tensor in module._parameters.values())
        shared = [part.site for part in adapter.parts if any(uses[id(t)] > 1 for t in part.module.parameters())]
    if shared:
        return f" into {shared[0]}: another layer has the same weight"
    for part in adapter.parts:
        if isinstance(part.module, STANDARDISED) and not isinstance(part.adapter, OwnWeights):
            return f" into {part.site}: its kernel is standardised in each forward pass"
    return ""


def _outputs(model: nn.Module, images: torch.Tensor) -> torch.Tensor | None:
    """What the model computes in evaluation mode; None where it cannot, as in double precision."""
    with evaluating(model):
        try:
            found: torch.Tensor = model(images)
        except (RuntimeError, ValueError, AssertionError, IndexError):
            return None
    return found


def _tensors(model: nn.Module) -> list[tuple[str, torch.Tensor]]:
    return [*model.named_parameters(), *model.named_buffers()]
