"""What is worth trying: a few sensible configurations of every method.

Sizes and learning rates bracket what the methods' papers use. Settings that a method does not have do not multiply its
candidates, so the space is conditional by construction.
"""

from __future__ import annotations

from itertools import product
from typing import Any

import timm
import torch
from torch import nn

import adapters
from adapters import METHODS, AdapterConfig

SPACE: dict[str, dict[str, tuple[Any, ...]]] = {
    "linear": {"learning_rate": (0.01, 0.1)},
    "full": {"learning_rate": (0.0003, 0.001)},
    "bitfit": {"learning_rate": (0.003, 0.01)},
    "norm": {"learning_rate": (0.003, 0.01)},
    "ssf": {"learning_rate": (0.003, 0.01, 0.03)},
    "lora": {"rank": (4, 16), "learning_rate": (0.005, 0.015)},
    "fact": {"rank": (8, 16)},
    "houlsby": {"bottleneck": (8, 32)},
    "pfeiffer": {"bottleneck": (8, 64)},
    "adaptformer": {"bottleneck": (8, 64)},
    "repadapter": {"bottleneck": (8, 32)},
    "vpt_shallow": {"prompts": (10, 50)},
    "vpt_deep": {"prompts": (5, 20)},
    "pixel_prompt": {"learning_rate": (0.01, 0.1)},
    "residual_serial": {"learning_rate": (0.005,)},
    "residual_parallel": {"learning_rate": (0.005,)},
    "conv_adapter": {"reduction": (4, 8)},
}
"""The settings of each method that are worth varying; the others keep their defaults."""


def search_space(
    backbone: str | nn.Module = adapters.DEFAULT_BACKBONE, methods: tuple[str, ...] | None = None
) -> tuple[AdapterConfig, ...]:
    """The sensible candidates of the methods that fit a backbone.

    Args:
        backbone: What will be tuned; only its structure matters.
        methods: Which methods; all of `adapters.METHODS` if not given.
    """
    found = []
    for method in METHODS if methods is None else methods:
        choices = SPACE.get(method, {})
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
    """Trainable parameters of a configuration on a backbone, classifier not counted; None if it does not fit."""
    with torch.device("meta"):
        model = timm.create_model(backbone) if isinstance(backbone, str) else _structure(backbone)
        try:
            return adapters.num_adapter_parameters(adapters.attach(model, config, num_classes=2))
        except adapters.AdapterError:
            return None


def _structure(model: nn.Module) -> nn.Module:
    """A copy of a model without its numbers."""
    import copy

    return copy.deepcopy(model).to("meta")
