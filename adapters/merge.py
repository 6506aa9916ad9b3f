"""Fold an adapter into the backbone's own weights: a plain model that knows nothing of adapters."""

from __future__ import annotations

import copy

import torch
from torch import nn

from adapters.attach import Backbone, adapter_of, detach
from adapters.errors import MergeError
from adapters.methods.registry import METHODS


def merge(model: Backbone) -> Backbone:
    """A plain copy of the model, with exactly the weights' names of the untouched backbone.

    The folding is done in double precision and rounded once. `model` stays as it is. Normalisation layers must use
    their stored statistics, as in evaluation mode, for the merged model to compute the same.

    Raises:
        MergeError: the method cannot merge (says why), or a weight is NaN or infinite.
    """
    method = METHODS[adapter_of(model).config.method]
    if method.cannot_merge:
        raise MergeError(f"{method.name} cannot merge: {method.cannot_merge}; keep the model with its adapter")
    wrong = [name for name, value in model.state_dict().items() if not torch.isfinite(value).all()]
    if wrong:
        raise MergeError(f"{wrong[0]} has NaN or infinite values; train again with a lower learning rate")
    merged = copy.deepcopy(model).double()
    for name, adapter in adapter_of(merged).items():
        adapter.fold(merged.get_submodule(name))
    detach(merged)
    originals = dict(_tensors(model))
    for name, tensor in _tensors(merged):
        tensor.data = tensor.data.to(originals[name].dtype)
    return merged.requires_grad_(True)


def _tensors(model: nn.Module) -> list[tuple[str, torch.Tensor]]:
    return [*model.named_parameters(), *model.named_buffers()]
