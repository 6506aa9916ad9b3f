"""Stochastic depth while tuning (Huang et al. 2016, https://arxiv.org/abs/1603.09382)."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from timm.layers import DropPath
from torch import nn

from adapters.errors import ConfigError
from adapters.sites import block_names

PLACE = re.compile(r"drop_path\d*")  # what timm's blocks call it


@contextmanager
def dropping_paths(model: nn.Module, rate: float) -> Iterator[None]:
    """Within it, in training mode, residual branches are left out at random.

    The rate rises linearly from 0 in the first block to `rate` in the last, as in timm. With 0 the backbone's own
    rates stay.

    Raises:
        ConfigError: the backbone's blocks have no such place.
    """
    if not rate:
        yield
        return
    blocks = [model.get_submodule(name) for name in block_names(model)]
    rates = torch.linspace(0, rate, len(blocks)).tolist()
    replaced = [
        (part, place, getattr(part, place), own)
        for block, own in zip(blocks, rates, strict=True)
        for part in block.modules()  # a block may be made of blocks
        for place in {**vars(part), **part._modules}  # where nothing is dropped, the place may hold None
        if PLACE.fullmatch(place) and isinstance(getattr(part, place), nn.Module | None)
    ]
    if not replaced:
        raise ConfigError(f"drop_path={rate} finds no path to drop in {type(model).__name__}; leave it at 0")
    for part, place, _, own in replaced:
        setattr(part, place, DropPath(own))
    try:
        yield
    finally:
        for part, place, former, _ in replaced:
            setattr(part, place, former)
