"""Which of a probe's layers can be measured image by image.

A layer is measured by what it meets when it is called. That is the gradient of its weight only where the layer sees
each image by itself and the network uses the weight nowhere else.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from task2vec.errors import ProbeError
from task2vec.fisher.per_sample import SquaredGradients
from task2vec.probe import Probe, given_to

NOISE = 1e-3  # of the largest input: what the size of a batch may change by rounding
ALIKE = 4e-3  # of a layer's squared gradients: what two ways to compute them may differ by, be it in TF32
COMPARED = 1000  # numbers of a layer's input by which images are told apart


class Measurable(NamedTuple):
    """What can be measured of a probe.

    Attributes:
        layers: The layers, by name.
        unmeasured: The weights of the others.
        one_by_one: Whether layers see rows of several images among each other, so that images have to come singly.
    """

    layers: dict[str, nn.Linear | nn.Conv2d]
    unmeasured: tuple[str, ...]
    one_by_one: bool


def measurable_layers(probe: Probe, image: Tensor) -> Measurable:
    """The layers that see more of two images than of one, and whose gradients are those of their weights.

    Args:
        probe: The network.
        image: One image as it takes them, `(1, C, H, W)`, on its device.

    Raises:
        ProbeError: there are none, or an image's features depend on the images beside it.
    """
    other = another(image)
    one, two, both = (_seen(probe, each) for each in (image, other, torch.cat([image, other])))
    if _mixed(one.features, two.features, both.features, share=0.01):
        raise ProbeError(
            f"{probe.name} mixes the images of a batch: an image's features depend on those beside it; give a "
            "network that does not, such as one whose batch norm keeps running statistics"
        )
    sizes = ([[call.size for call in seen.calls[name]] for seen in (one, both)] for name in probe.layers)
    by_image = {
        name
        for name, (alone, together) in zip(probe.layers, sizes, strict=True)
        if [2 * size for size in alone] == together
    }
    calls = (c for name in by_image for c in zip(one.calls[name], two.calls[name], both.calls[name], strict=False))
    one_by_one = any(_mixed(*(call.some for call in seen), share=0.1) for seen in calls)
    measurable = _with_own_gradients(probe, image, by_image)
    if not measurable:
        raise ProbeError(
            f"no layer of {probe.name} can be measured: the features depend on none of them by a call on "
            "images; look at how the network uses its layers"
        )
    return Measurable(
        layers={name: layer for name, layer in probe.layers.items() if name in measurable},
        unmeasured=tuple(f"{name}.weight" for name in probe.layers if name not in measurable),
        one_by_one=one_by_one,
    )


def _with_own_gradients(probe: Probe, image: Tensor, names: set[str]) -> set[str]:
    """Those of the layers that a gradient reaches, and whose weights have no other one than what is met at calls.

    Autograd finds the whole gradient: that of a weight which several layers share, or which the network reads
    beside the layer's calls, is another one. It is taken of one image, for a random combination of the features.
    """
    layers = {name: layer for name, layer in probe.layers.items() if name in names}
    weights = {name: layer.weight for name, layer in layers.items() if isinstance(layer.weight, nn.Parameter)}
    before = [(weight, weight.requires_grad, weight.grad) for weight in set(weights.values())]
    expected: dict[Tensor, Tensor] = {}

    def square(weight: Tensor) -> None:  # at once, so that no more than one gradient is kept
        assert weight.grad is not None
        expected[weight] = _wide(weight.grad).square().flatten(1).mean(dim=1)
        weight.grad = None

    recorder = SquaredGradients(layers, 1)
    handles = []
    try:
        for weight, _, _ in before:
            weight.requires_grad_(True).grad = None
            handles.append(weight.register_post_accumulate_grad_hook(square))
        # What a network changes in place after a layer has seen it has to be there for autograd's gradient.
        with torch.enable_grad(), torch.autograd.graph.allow_mutation_on_saved_tensors():
            with recorder.recording(), probe.feature_tap() as features:
                taken = features(image)
            if not taken.requires_grad:
                return set()
            direction = torch.randn(taken.shape, generator=torch.Generator().manual_seed(0))
            found = {name: values[0] for name, values in recorder.of(taken, direction.to(taken)).items()}
    finally:
        for handle in handles:
            handle.remove()
        for weight, asked, gradient in before:
            weight.requires_grad_(asked).grad = gradient
    noise = 10 * torch.finfo(image.dtype).eps
    nothing = noise**2 * max((float(squares.max()) for squares in expected.values()), default=0.0)

    def is_own(name: str) -> bool:
        if name not in weights:  # computed anew in each pass: it is the gradient by the weight as it is used
            return True
        squares = expected.get(weights[name], torch.zeros_like(found[name]))
        return bool((found[name] - squares).norm() <= max(ALIKE, noise) * squares.norm() + nothing)

    return {name for name in found if is_own(name)}


def _seen(probe: Probe, images: Tensor) -> _Seen:
    """What the network makes of images, and what each layer is called on."""
    calls: dict[str, list[_Call]] = {name: [] for name in probe.layers}

    def note(name: str, inputs: Tensor) -> None:
        rows = inputs.reshape(len(images), -1) if inputs.numel() % len(images) == 0 else inputs.reshape(1, -1)
        calls[name].append(_Call(inputs.numel(), rows[:, :: max(1, rows.shape[1] // COMPARED)].clone()))

    handles = [
        layer.register_forward_pre_hook(
            lambda _, args, kwargs, name=name: note(name, given_to(args, kwargs)), with_kwargs=True
        )
        for name, layer in probe.layers.items()
    ]
    try:
        with torch.no_grad(), probe.feature_tap() as features:
            return _Seen(features(images), calls)
    finally:
        for handle in handles:
            handle.remove()


class _Call(NamedTuple):
    """A call of a layer on B images.

    Attributes:
        size: How many numbers went in.
        some: Some of them, `(B, k)`, as if the rows of each image followed each other.
    """

    size: int
    some: Tensor


class _Seen(NamedTuple):
    """One pass of B images: their features `(B, d)`, and each layer's calls."""

    features: Tensor
    calls: dict[str, list[_Call]]


def another(image: Tensor) -> Tensor:
    """Any image that differs."""
    return 0.5 - image.flip(3)


def _wide(values: Tensor) -> Tensor:
    """At least in float32: squares leave the range of float16."""
    return values.to(torch.promote_types(values.dtype, torch.float32))


def _mixed(one: Tensor, two: Tensor, both: Tensor, *, share: float) -> bool:
    """Whether two images together are something else than each alone, as where tokens come before images and a layer
    sees rows of one between those of the other: by more than rounding, and than a share of what tells them apart.
    """
    expected = torch.cat([one, two])
    apart = (one - two).abs().max()  # a part that is large in every image tells nothing
    noise = max(NOISE, 10 * torch.finfo(expected.dtype).eps) * expected.abs().max()
    return bool((both - expected).abs().max() > torch.maximum(noise, share * apart))
