"""How much each weight of a backbone matters on a task, for the methods that choose weights one by one.

n: image, w: a weight of a linear layer or convolution outside the classifier.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from adapters.errors import ConfigError
from adapters.methods.sparse_weights import layers_with_weights
from adapters.proof import evaluating
from adapters.sites import classifier_names, walk

TEMPERATURE = 0.07  # of the supervised contrastive loss, as its authors have it

Batches = Iterable[tuple[Tensor, Tensor]]
"""Images `(B, C, H, W)` as the backbone takes them, and int64 labels `(B,)`: a `torch.utils.data.DataLoader`, say."""


def gradient_scores(model: nn.Module, batches: Batches) -> dict[str, Tensor]:
    """|dL / dw|, L the supervised contrastive loss of the features, summed over the batches: the scores of GPS.

    Zhang et al. 2023, https://arxiv.org/abs/2312.10136, section 3.2. The classifier plays no part.

    Args:
        model: The backbone, with or without an adapter.
        batches: The task's images; each batch should hold several images of a class.

    Returns:
        For each linear layer and convolution outside the classifier, by its name, a tensor of its weight's shape.

    Raises:
        ConfigError: no two images of a batch are of one class, or an image has several.
    """
    with evaluating(model), _weights(model) as weights:
        totals = {name: torch.zeros_like(weight) for name, weight in weights.items()}
        paired = False
        for images, labels in batches:
            _check_classes(labels)
            loss = supervised_contrastive_loss(_features(model, _as_input(images, model)), labels)
            if loss is None:
                continue
            paired = True
            for name, gradient in _gradients(loss, weights).items():
                totals[name] += gradient
    if not paired:
        raise ConfigError("no two images of a batch are of one class; give larger batches, in random order")
    return {name: total.abs() for name, total in totals.items()}


def fisher_scores(model: nn.Module, batches: Batches) -> dict[str, Tensor]:
    r"""The scores of the FISH mask, one image at a time.

    $$F_w = \frac{1}{N} \sum_n \left( \frac{\partial \log p(y_n \mid x_n)}{\partial w} \right)^2$$

    Sung et al. 2021, https://arxiv.org/abs/2111.09839, section 3.

    Args:
        model: The backbone with a classifier that was fitted on the task, such as what `fit` makes of
            `AdapterConfig("linear")`: with a new one, the gradients tell of its random weights.
        batches: The task's images.

    Returns:
        For each linear layer and convolution outside the classifier, by its name, a tensor of its weight's shape.

    Raises:
        ConfigError: there are no images, or an image has several classes.
    """
    count = 0
    with evaluating(model), _weights(model) as weights:
        totals = {name: torch.zeros_like(weight) for name, weight in weights.items()}
        for images, labels in batches:
            _check_classes(labels)
            for image, label in zip(_as_input(images, model).split(1), labels.split(1), strict=True):
                loss = F.cross_entropy(model(image), label.to(image.device))
                for name, gradient in _gradients(loss, weights).items():
                    totals[name] += gradient.square()
                count += 1
    if not count:
        raise ConfigError("there are no images to score the weights on; give some")
    return {name: total / count for name, total in totals.items()}


def supervised_contrastive_loss(features: Tensor, labels: Tensor) -> Tensor | None:
    """Mean over the images of - 1/|P| sum_{p in P} log softmax_p(z . z_p / temperature), z the features of length 1 and
    P the other images of the same class (Khosla et al. 2020, https://arxiv.org/abs/2004.11362, equation 2).

    Args:
        features: `(B, d)`.
        labels: `(B,)`.

    Returns:
        A scalar over the images that have others of their class; None where there are none.
    """
    labels = labels.to(features.device)
    itself = torch.eye(len(labels), dtype=torch.bool, device=features.device)
    positive = (labels[:, None] == labels[None]) & ~itself
    has_any = positive.any(dim=1)
    if not has_any.any():
        return None
    units = F.normalize(features, dim=1)
    similarities = (units @ units.mT / TEMPERATURE).masked_fill(itself, -torch.inf)
    logs = similarities.log_softmax(dim=1).masked_fill(~positive, 0.0)
    return -(logs.sum(dim=1)[has_any] / positive.sum(dim=1)[has_any]).mean()


@contextmanager
def _weights(model: nn.Module) -> Iterator[dict[str, nn.Parameter]]:
    """The weights to score, by the names of their modules; within it they ask for gradients."""
    found = {site.name: site.module._parameters["weight"] for site in layers_with_weights(walk(model))}
    weights = {name: weight for name, weight in found.items() if weight is not None}
    asking = {name: weight.requires_grad for name, weight in weights.items()}
    try:
        for weight in weights.values():
            weight.requires_grad_(True)
        yield weights
    finally:
        for name, weight in weights.items():
            weight.requires_grad_(asking[name])


def _gradients(loss: Tensor, weights: dict[str, nn.Parameter]) -> dict[str, Tensor]:
    """The loss's gradient by each weight that it depends on."""
    gradients = torch.autograd.grad(loss, list(weights.values()), allow_unused=True)
    return {name: gradient for name, gradient in zip(weights, gradients, strict=True) if gradient is not None}


def _features(model: nn.Module, images: Tensor) -> Tensor:
    """What the classifier is given, `(B, d)`."""
    taken: list[Tensor] = []
    classifier = model.get_submodule(classifier_names(model)[0])
    handle = classifier.register_forward_pre_hook(lambda _, args: taken.append(args[0]))
    try:
        model(images)
    finally:
        handle.remove()
    return taken[-1].flatten(1)


def _check_classes(labels: Tensor) -> None:
    if labels.ndim != 1 or labels.is_floating_point():
        raise ConfigError(
            f"labels of shape {tuple(labels.shape)} are not one class number for each image, which these scores need; "
            "use adapters.allocate with a sensitivity instead"
        )


def _as_input(images: Tensor, model: nn.Module) -> Tensor:
    like = next(p for p in model.parameters() if p.is_floating_point())
    return images.to(like.device, like.dtype)
