"""Per-filter sums of squared per-sample gradients, without ever storing a per-sample gradient.

The weights never ask for a gradient. Each measured layer's input is kept on the way forward, its output's gradient is
met on the way back, and the two are contracted at once to one number for each sample and filter.

Indices: n sample, o filter (output unit), i input unit, t position (token or pixel; all positions share the weights).

For a layer with inputs a_nti and output gradients g_nto, sample n's gradient of the weight w_oi is
`sum_t g_nto a_nti`, and the mean over the filter's weights of its square is computed in one of two ways:

    direct  mean_i (sum_t g_nto a_nti)^2                          costs T * d_in * d_out
    Gram    sum_tu g_nto (sum_i a_nti a_nui) g_nuo / d_in         costs T^2 * (d_in + d_out)

For a convolution i runs over the pixels and channels of a patch, and the Gram matrix of overlapping patches is a sum of
shifted Gram matrices of pixels, one shift for each pixel of the kernel: patches need not be laid out, and each product
of two pixels is taken once instead of once for each pixel of the kernel.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from itertools import product
from typing import Any

import torch
from timm.layers import Conv2dSame
from timm.layers.padding import pad_same
from torch import Tensor, nn
from torch.nn import functional as F

from task2vec.probe import given_to

# Bytes of a contraction's temporaries, beyond which it takes fewer samples at once: on a CPU they stay in the cache.
CPU_CHUNK, GPU_CHUNK = 16 * 2**20, 256 * 2**20
# A convolution whose groups are samples gives their weight gradients in one call; with more groups, or with fewer
# channels in each, libraries fall back to slow kernels, and a call for each sample is faster.
SAMPLES_PER_CALL, FEWEST_CHANNELS = 8, 8


class Workspace:
    """Memory that products are written to again and again: on a CPU, fresh pages cost nearly as much as the product."""

    def __init__(self) -> None:
        self._memory = torch.empty(0)

    def empty(self, shape: tuple[int, ...], like: Tensor) -> Tensor:
        """An uninitialised tensor, valid until the next one is asked for."""
        size = math.prod(shape)
        if (self._memory.dtype, self._memory.device) != (like.dtype, like.device) or len(self._memory) < size:
            self._memory = like.new_empty(size)
        return self._memory[:size].view(shape)


def linear_squares(inputs: Tensor, gradients: Tensor, workspace: Workspace) -> Tensor:
    """Squared per-sample weight gradients of a linear layer, averaged inside each filter.

    Args:
        inputs: `(N, T, d_in)`.
        gradients: `(N, T, d_out)`, of the summed loss by the layer's output.
        workspace: Where to put products.

    Returns:
        `(N, d_out)`.
    """
    positions, d_in, d_out = inputs.shape[1], inputs.shape[2], gradients.shape[2]
    # A quarter more for the Gram way, whose products are smaller and which passes over the gradients once more.
    use_gram = 5 * positions * (d_in + d_out) <= 4 * d_in * d_out
    per_sample = positions * (positions + d_out) if use_gram else d_in * d_out
    contract = _gram_sums if use_gram else partial(_direct_sums, workspace)
    return _in_chunks(contract, inputs, gradients, per_sample) / d_in


def _gram_sums(inputs: Tensor, gradients: Tensor) -> Tensor:
    return _quadratic_form(inputs @ inputs.mT, gradients)


def _direct_sums(workspace: Workspace, inputs: Tensor, gradients: Tensor) -> Tensor:
    products = workspace.empty((len(inputs), gradients.shape[2], inputs.shape[2]), inputs)
    torch.bmm(gradients.mT, inputs, out=products)
    if products.dtype in (torch.float32, torch.float64):
        return torch.linalg.vecdot(products, products, dim=2)  # reads the products once
    return _sum(products.square_(), dim=2)


def _quadratic_form(gram: Tensor, gradients: Tensor) -> Tensor:
    """`sum_tu g_nto G_ntu g_nuo`, `(N, d_out)`."""
    return _sum(gradients * (gram @ gradients), dim=1).clamp_(min=0)


def _in_chunks(
    contract: Callable[[Tensor, Tensor], Tensor], inputs: Tensor, gradients: Tensor, per_sample: int
) -> Tensor:
    """The contraction, of as many samples at once as temporaries of `per_sample` elements allow."""
    budget = CPU_CHUNK if inputs.device.type == "cpu" else GPU_CHUNK
    chunk = max(1, budget // (per_sample * inputs.element_size()))
    return torch.cat([contract(a, g) for a, g in zip(inputs.split(chunk), gradients.split(chunk), strict=True)])


def _sum(values: Tensor, dim: int) -> Tensor:
    """The sum, in float32 even of half precision."""
    return values.sum(dim=dim, dtype=torch.promote_types(values.dtype, torch.float32))


def conv_squares(
    layer: nn.Conv2d, calls: list[tuple[Tensor, Tensor]], num_samples: int, workspace: Workspace
) -> Tensor:
    """Squared per-sample weight gradients of a convolution, averaged inside each filter.

    Args:
        layer: The convolution, of any stride, padding, dilation and number of groups.
        calls: For each time the layer was used, its inputs `(N * k, C_in, H, W)` and output gradients
            `(N * k, C_out, H', W')`, the k rows of one sample following each other.
        num_samples: N.
        workspace: Where to put products.

    Returns:
        `(N, C_out)`.
    """
    if layer.groups == 1 and len(calls) == 1 and len(calls[0][0]) == num_samples:
        return _ungrouped_squares(layer, *calls[0], workspace)
    split = [(a.tensor_split(num_samples), g.tensor_split(num_samples)) for a, g in calls]
    weight_gradients = [
        torch.stack([_weight_gradient(layer, a[n], g[n], len(layer.weight), layer.groups) for a, g in split]).sum(dim=0)
        for n in range(num_samples)
    ]
    return torch.stack([_sum(g.square().flatten(1), dim=1) for g in weight_gradients]) / layer.weight[0].numel()


def _ungrouped_squares(layer: nn.Conv2d, inputs: Tensor, gradients: Tensor, workspace: Workspace) -> Tensor:
    """The cheapest way for a convolution of one group that is used once, one row for each sample."""
    out_channels, in_channels, *kernel = layer.weight.shape
    if kernel == [1, 1] and layer.padding in ((0, 0), "valid"):
        pixels = inputs[:, :, :: layer.stride[0], :: layer.stride[1]]
        return linear_squares(pixels.flatten(2).mT, gradients.flatten(2).mT, workspace)
    kernel_size = kernel[0] * kernel[1]
    fan_in = in_channels * kernel_size
    positions, pixels_in = gradients[0, 0].numel(), _padded_pixels(layer, inputs)
    direct = positions * fan_in * out_channels
    by_patches = positions**2 * (fan_in + out_channels)
    # A shifted sum moves two numbers for each that it adds, where a matrix product reuses those it has: hence the 8.
    same_class = pixels_in**2 // (layer.stride[0] * layer.stride[1])
    by_pixels = same_class * in_channels + positions**2 * (out_channels + 8 * kernel_size)
    if by_pixels < min(direct, by_patches):
        sums = _in_chunks(partial(pixel_gram_sums, layer), inputs, gradients, pixels_in**2 + positions**2)
    elif by_patches < direct:
        sums = _in_chunks(partial(patch_gram_sums, layer), inputs, gradients, positions * (positions + fan_in))
    else:
        samples = SAMPLES_PER_CALL if in_channels >= FEWEST_CHANNELS else 1
        pairs = zip(inputs.split(samples), gradients.split(samples), strict=True)
        sums = torch.cat([_grouped_sums(layer, a, g) for a, g in pairs])
    return sums / fan_in


def _grouped_sums(layer: nn.Conv2d, inputs: Tensor, gradients: Tensor) -> Tensor:
    """Sums `(N, C_out)` of squared weight gradients, from one convolution in which each sample is a group."""
    num_samples, out_channels = len(inputs), len(layer.weight)
    inputs, gradients = (t.reshape(1, -1, *t.shape[2:]) for t in (inputs, gradients))
    gradient = _weight_gradient(layer, inputs, gradients, num_samples * out_channels, num_samples)
    return _sum(gradient.square_().view(num_samples, out_channels, -1), dim=2)


def patch_gram_sums(layer: nn.Conv2d, inputs: Tensor, gradients: Tensor) -> Tensor:
    """Sums `(N, C_out)` of squared weight gradients, from Gram matrices of patches laid out."""
    padded, padding = _explicit_padding(layer, inputs)
    patches = F.unfold(padded, layer.kernel_size, layer.dilation, padding, layer.stride)  # nit
    return _quadratic_form(patches.mT @ patches, gradients.flatten(2).mT)


def pixel_gram_sums(layer: nn.Conv2d, inputs: Tensor, gradients: Tensor) -> Tensor:
    """Sums `(N, C_out)` of squared weight gradients, from Gram matrices of pixels.

    The pixels that one place of the kernel meets lie a stride apart, so they fall into classes: only pixels of one
    class are ever multiplied with each other.
    """
    padded, (above, beside) = _explicit_padding(layer, inputs)
    padded = F.pad(padded, (beside, beside, above, above))
    num_samples, _, height, width = gradients.shape
    (stride_h, stride_w), (dilation_h, dilation_w) = layer.stride, layer.dilation
    classes: dict[tuple[int, int], list[tuple[int, int]]] = {}
    for h, w in product(range(layer.kernel_size[0]), range(layer.kernel_size[1])):
        (skip_h, class_h), (skip_w, class_w) = divmod(h * dilation_h, stride_h), divmod(w * dilation_w, stride_w)
        classes.setdefault((class_h, class_w), []).append((skip_h, skip_w))
    summed = inputs.new_zeros(num_samples, height, width, height, width)
    for (class_h, class_w), skips in classes.items():
        grid = padded[:, :, class_h::stride_h, class_w::stride_w]
        pixels = grid.flatten(2)
        gram = (pixels.mT @ pixels).view(num_samples, *grid.shape[2:], *grid.shape[2:])
        for skip_h, skip_w in skips:
            rows, columns = slice(skip_h, skip_h + height), slice(skip_w, skip_w + width)
            summed += gram[:, rows, columns, rows, columns]
    positions = height * width
    return _quadratic_form(summed.view(num_samples, positions, positions), gradients.flatten(2).mT)


def _padded_pixels(layer: nn.Conv2d, inputs: Tensor) -> int:
    """How many pixels an input has with its padding."""
    columns, rows = sum(layer._reversed_padding_repeated_twice[:2]), sum(layer._reversed_padding_repeated_twice[2:])
    return (inputs.shape[2] + rows) * (inputs.shape[3] + columns)


def _weight_gradient(layer: nn.Conv2d, inputs: Tensor, gradients: Tensor, out_channels: int, groups: int) -> Tensor:
    """The gradient of a weight of the layer's geometry, `(out_channels, C_in / groups, kernel)`."""
    padded, padding = _explicit_padding(layer, inputs)
    weight = inputs.new_empty(out_channels, *layer.weight.shape[1:])  # asked for its shape alone
    stride, dilation = layer.stride, layer.dilation
    _, gradient, _ = torch.ops.aten.convolution_backward(
        gradients, padded, weight, None, stride, padding, dilation, False, [0, 0], groups, [False, True, False]
    )
    return gradient


def _explicit_padding(layer: nn.Conv2d, inputs: Tensor) -> tuple[Tensor, tuple[int, int]]:
    """The inputs and the symmetric zero padding that is left to do: other paddings are laid out here."""
    if isinstance(layer, Conv2dSame):
        return pad_same(inputs, layer.kernel_size, layer.stride, layer.dilation), (0, 0)
    if isinstance(layer.padding, tuple) and layer.padding_mode == "zeros":
        return inputs, (layer.padding[0], layer.padding[1])
    mode = "constant" if layer.padding_mode == "zeros" else layer.padding_mode
    return F.pad(inputs, layer._reversed_padding_repeated_twice, mode=mode), (0, 0)


class _StartGraph(torch.autograd.Function):
    """The same tensor, from which on autograd records: the first measured layer needs no gradient below it."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, anchor: Tensor) -> Tensor:
        ctx.mark_dirty(values)
        return values

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[None, None]:
        return None, None


class SquaredGradients:
    """Collects the squares of one batch, layer by layer, while its gradients flow back.

    A layer may see more rows than there are samples, as where windows of an image are attended to separately; the
    rows of one sample must then follow each other.

    Args:
        layers: The layers to measure, by name.
        num_samples: N, the size of the batch.
    """

    def __init__(self, layers: Mapping[str, nn.Module], num_samples: int) -> None:
        self.layers = layers
        self.num_samples = num_samples
        self._workspace = Workspace()
        self._calls: dict[str, int] = {}
        self._pending: dict[str, list[tuple[Tensor, Tensor]]] = {}
        self._squares: dict[str, Tensor] = {}

    @contextmanager
    def recording(self) -> Iterator[None]:
        """Inside the context, one forward pass through the layers is recorded."""
        handles = [
            # First, so that it meets the gradient of the layer's own output and not of what other hooks make of it.
            layer.register_forward_hook(partial(self._after_forward, name), with_kwargs=True, prepend=True)
            for name, layer in self.layers.items()
        ]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def of(self, outputs: Tensor, gradient: Tensor, *, keep_graph: bool = False) -> dict[str, Tensor]:
        """Squares `(N, filters)` of what the samples' gradients by `outputs` pull back to each layer they depend on."""
        self._squares, self._pending = {}, {}
        outputs.backward(gradient, retain_graph=keep_graph)
        for name, calls in self._pending.items():  # layers some of whose uses the loss does not depend on
            self._squares[name] = self._contract(self.layers[name], calls)
        return self._squares

    def _after_forward(
        self, name: str, _: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Tensor
    ) -> Tensor:
        if not torch.is_grad_enabled():  # by the network itself: no gradient is going to come back
            return output
        if not output.requires_grad:
            output = _StartGraph.apply(output, torch.zeros((), requires_grad=True))
        inputs = given_to(args, kwargs).detach().to(output.dtype)
        self._calls[name] = self._calls.get(name, 0) + 1
        output.register_hook(lambda gradient: self._meet(name, inputs, gradient.detach()))
        return output

    def _meet(self, name: str, inputs: Tensor, gradient: Tensor) -> None:
        # A layer that is used several times has one weight gradient, the sum over its uses: square it only then.
        calls = self._pending.setdefault(name, [])
        calls.append((inputs, gradient))
        if len(calls) == self._calls[name]:
            self._squares[name] = self._contract(self.layers[name], self._pending.pop(name))

    def _contract(self, layer: nn.Module, calls: list[tuple[Tensor, Tensor]]) -> Tensor:
        if calls[0][0].dtype is torch.float16:  # squares leave its range, where bfloat16 has that of float32
            calls = [(inputs.float(), gradients.float()) for inputs, gradients in calls]
        if isinstance(layer, nn.Conv2d):
            return conv_squares(layer, calls, self.num_samples, self._workspace)
        sides = ([call[side].reshape(self.num_samples, -1, call[side].shape[-1]) for call in calls] for side in (0, 1))
        inputs, gradients = (side[0] if len(side) == 1 else torch.cat(side, dim=1) for side in sides)
        return linear_squares(inputs, gradients, self._workspace)
