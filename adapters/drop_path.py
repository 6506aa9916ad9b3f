"""Stochastic depth while tuning (Huang et al. 2016, https://arxiv.org/abs/1603.09382)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from timm.layers import DropPath
from torch import nn

from adapters.sites import block_names

PLACES = ("drop_path", "drop_path1", "drop_path2")  # what timm's blocks call it


@contextmanager
def dropping_paths(model: nn.Module, rate: float) -> Iterator[None]:
    """Within it, in training mode, residual branches are left out at random.

    The rate rises linearly from 0 in the first block to `rate` in the last, as in timm. With 0 the backbone's own
    rates stay.
    """
    if not rate:
        yield
        return
    blocks = [model.get_submodule(name) for name in block_names(model)]
    rates = torch.linspace(0, rate, len(blocks)).tolist()
    replaced = [
        (block, place, getattr(block, place), own)
        for block, own in zip(blocks, rates, strict=True)
        for place in PLACES
        if hasattr(block, place)
    ]
    for block, place, _, own in replaced:
        setattr(block, place, DropPath(own))
    try:
        yield
    finally:
        for block, place, former, _ in replaced:
            setattr(block, place, former)
