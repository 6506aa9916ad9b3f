"""SSF: scale and shift the features after every operation (Lian et al. 2022, https://arxiv.org/abs/2210.08823).

y = g * (W x + b) + s    (equation 1)    folds into    W' = g W, b' = g b + s    (equation 3)
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn.modules.batchnorm import _BatchNorm

from adapters.methods.registry import register_method
from adapters.methods.site_adapter import SiteAdapter
from adapters.settings import Targeted, decay, rate
from adapters.sites import Site

INITIAL_SPREAD = 0.02  # standard deviation around scale 1 and shift 0
KEPT_BY_THE_NEXT = ("qkv", "fc1")  # linear layers whose output the next operation keeps for its own gradient
ANY_AXES = (_BatchNorm, nn.GroupNorm)  # of the image may follow the channels, which follow the batch
ROWS = 512  # of a product that is summed at once
SMALLEST_SCALE = 1e-6  # what a smaller scale counts as where its gradient is divided by it


@dataclasses.dataclass(frozen=True, kw_only=True)
class SSFSettings(Targeted):
    """Settings of SSF."""

    learning_rate: float = rate(1e-2, tried=(0.003, 0.01, 0.03))
    weight_decay: float = decay(3.0)  # of the classifier alone: scales and shifts are no matrices


@register_method(
    "ssf",
    "SSF",
    "https://arxiv.org/abs/2210.08823",
    settings=SSFSettings,
    needs="linear, convolution or normalisation layers",
    trains="a scale and a shift after every operation",
    equal=(
        "the authors' modules after every linear layer, convolution and normalisation, and their initial spread of 0.02"
    ),
    different="an operation without a bias gets no shift: in a plain model it would have no place",
)
def ssf(sites: list[Site], settings: SSFSettings) -> Iterator[tuple[Site, ScaleShift]]:
    """After every linear layer, convolution and normalisation that has weights."""
    for site in sites:
        if site.kind in ("linear", "conv", "norm") and getattr(site.module, "weight", None) is not None:
            keeps_output = site.kind == "linear" and site.role in KEPT_BY_THE_NEXT
            axis = 1 if isinstance(site.module, ANY_AXES) else site.channel_axis
            yield site, ScaleShift(site.module, channel_axis=axis, keeps_output=keeps_output)


class ScaleShift(SiteAdapter):
    """One scale and one shift for each channel.

    An operation without bias gets the scale alone: in a plain model its shift would have no place, and the
    normalisation that follows such an operation has a shift of its own.

    Args:
        module: The operation.
        channel_axis: The axis of its output that runs over channels, counted from the end if below 0.
        keeps_output: Whether the next operation keeps its input for the gradient. Then the scale's gradient is taken
            from that, and no second tensor of this size is kept.
    """

    def __init__(self, module: nn.Module, *, channel_axis: int, keeps_output: bool = False) -> None:
        super().__init__()
        weight: Tensor = module.weight  # type: ignore[assignment]
        channels = weight.shape[0]
        self.channel_axis = channel_axis
        self.keeps_output = keeps_output
        self.scale = nn.Parameter(weight.new_empty(channels).normal_(1.0, INITIAL_SPREAD))
        self.shift = None
        if getattr(module, "bias", None) is not None:
            self.shift = nn.Parameter(weight.new_empty(channels).normal_(0.0, INITIAL_SPREAD))

    def forward(self, inputs: Tensor, output: Tensor) -> Tensor:
        """`output * scale + shift` along the channels."""
        shape = (-1,) + (1,) * (output.ndim - 1 - self.channel_axis % output.ndim)
        if self.shift is None:
            return output * self.scale.view(shape)
        if self.keeps_output:
            scaled: Tensor = _ScaleShiftOfLinear.apply(output, self.scale, self.shift)
            return scaled
        return torch.addcmul(self.shift.view(shape), output, self.scale.view(shape))

    def folded(self, module: nn.Module, weight: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Into weight and bias of a linear layer or convolution, or the affine part of a normalisation."""
        weight = weight * self.scale.view(-1, *(1,) * (weight.ndim - 1))
        if bias is None or self.shift is None:
            return weight, bias
        shape = (-1, *(1,) * (bias.ndim - 1))
        return weight, bias * self.scale.view(shape) + self.shift.view(shape)


class _ScaleShiftOfLinear(torch.autograd.Function):
    """y = g * u + s over the last axis, keeping y for the gradient instead of u.

    With n over rows and c over channels, the gradient of g_c is sum_n dy_nc u_nc
    = (sum_n dy_nc y_nc - s_c sum_n dy_nc) / g_c.
    """

    @staticmethod
    def forward(ctx: Any, output: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
        scaled = torch.addcmul(shift.to(output.dtype), output, scale.to(output.dtype))
        ctx.save_for_backward(scaled, scale, shift)
        return scaled

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor, Tensor]:
        scaled, scale, shift = ctx.saved_tensors
        to_output = gradient * scale.to(gradient.dtype) if ctx.needs_input_grad[0] else None
        rows = gradient.flatten(0, -2)
        to_shift = rows.sum(0, dtype=scale.dtype)
        # In pieces that stay in the cache: a product of all rows would be as large as the gradient itself.
        pieces = zip(rows.split(ROWS), scaled.flatten(0, -2).split(ROWS), strict=True)
        products = torch.stack([(dy * y).sum(0, dtype=scale.dtype) for dy, y in pieces]).sum(0)
        divisor = torch.where(scale.abs() < SMALLEST_SCALE, torch.full_like(scale, SMALLEST_SCALE), scale)
        return to_output, (products - shift * to_shift) / divisor, to_shift
