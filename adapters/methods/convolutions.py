"""Convolutions beside a backbone's own."""

from __future__ import annotations

import math

from torch import nn


def similar_convolution(module: nn.Conv2d, out_channels: int, *, groups: int = 1) -> nn.Conv2d:
    """A convolution of the same class, input and geometry, without bias, at torch's usual initial weights."""
    made = type(module)(
        module.in_channels,
        out_channels,
        module.kernel_size,  # type: ignore[arg-type]
        stride=module.stride,  # type: ignore[arg-type]
        padding=module.padding,  # type: ignore[arg-type]
        dilation=module.dilation,  # type: ignore[arg-type]
        groups=groups,
        bias=False,
    )
    made.padding_mode = module.padding_mode
    nn.init.kaiming_uniform_(made.weight, a=math.sqrt(5))
    return made.to(module.weight)
