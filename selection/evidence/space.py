"""What is worth trying: a few sensible configurations of every method.

Sizes and learning rates bracket what the methods' papers use. Settings that a method does not have do not multiply its
candidates, so the space is conditional by construction.
"""

from __future__ import annotations

import copy
from itertools import product
from typing import Any

import timm
import torch
from torch import nn

import adapters
from adapters import METHODS, AdapterConfig


def choices_of(method: str) -> dict[str, tuple[Any, ...]]:
    """The settings of a method that are worth varying, as its file declares them; the others keep their defaults."""
    return {name: setting.tried for name, setting in METHODS[method].settings.declared().items() if setting.tried}


def search_space(
    backbone: str | nn.Module = adapters.DEFAULT_BACKBONE, methods: tuple[str, ...] | None = None
) -> tuple[AdapterConfig, ...]:
    """The sensible candidates of the methods that fit a backbone.

    Args:
        backbone: What will be tuned; only its structure matters.
        methods: Which methods; all of `adapters.METHODS` that need no scores of the weights if not given.
    """
    found = []
    everywhere = tuple(name for name, method in METHODS.items() if method.choose is None)
    for method in everywhere if methods is None else methods:
        choices = choices_of(method)
        candidates = [
            AdapterConfig(method, **dict(zip(choices, values, strict=True))) for values in product(*choices.values())
        ]
        if fits(backbone, candidates[0]):
            found += candidates
    return tuple(found)


def fits(backbone: str | nn.Module, config: AdapterConfig) -> bool:
    """Whether a method has somewhere to go on a backbone."""
    return parameters_on(backbone, config) is not None


def parameters_on(backbone: str | nn.Module, config: AdapterConfig) -> int | None:
    """Trainable parameters of a configuration on a backbone, classifier not counted; None if it does not fit.

    A placement shares out those of the same size everywhere, or a few less.
    """
    config = config.replace(placement=None)
    with torch.device("meta"):
        model = timm.create_model(backbone) if isinstance(backbone, str) else _structure(backbone)
        try:
            return adapters.num_adapter_parameters(adapters.attach(model, config, num_classes=2))
        except adapters.AdapterError:
            return None


def _structure(model: nn.Module) -> nn.Module:
    """A copy of a model without its numbers."""
    return copy.deepcopy(model).to("meta")
