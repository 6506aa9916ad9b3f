"""Augmentation as timm builds it: of single images when they are read, and of whole batches in a step.

| | single images | batches |
| --- | --- | --- |
| `none` | the network's own preprocessing | |
| `light` | random resized crop of at least 60% of the area, horizontal flip | |
| `timm` | random resized crop, horizontal flip, RandAugment, random erasing | Mixup or CutMix |

Mixup: Zhang et al. 2018, https://arxiv.org/abs/1710.09412; CutMix: Yun et al. 2019, https://arxiv.org/abs/1905.04899;
RandAugment: Cubuk et al. 2019, https://arxiv.org/abs/1909.13719. The strengths of `timm` are those that DeiT was
trained with (Touvron et al. 2021, https://arxiv.org/abs/2012.12877).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import torch
from timm.data import Mixup, create_transform, resolve_data_config
from torch import Tensor, nn

from adapters.data import Transform, drawn_from
from adapters.errors import ConfigError
from adapters.sites import image_size

Augment = Literal["none", "light", "timm"]

# DeiT's, but for the bound: at timm's largest magnitude, 10, an image is left with no bits, which Pillow refuses.
RANDAUGMENT = "rand-m9-mmax9-mstd0.5-inc1"

OF_IMAGES: dict[str, dict[str, Any] | None] = {
    "none": None,
    "light": {"scale": (0.6, 1.0), "hflip": 0.5, "color_jitter": None},
    "timm": {"hflip": 0.5, "auto_augment": RANDAUGMENT, "re_prob": 0.25, "re_mode": "pixel"},
}
OF_BATCHES: dict[str, dict[str, float]] = {"timm": {"mixup_alpha": 0.8, "cutmix_alpha": 1.0}}

Mix = Callable[[Tensor, Tensor, tuple[int, ...]], tuple[Tensor, Tensor]]
"""From images `(B, C, H, W)`, labels `(B,)` and what the draw follows from to mixed images and targets."""


def augmentation_of(model: nn.Module, augment: str) -> Transform | None:
    """What is done with each image in training instead of the model's own preprocessing; None for nothing else.

    Raises:
        ConfigError: there is no such augmentation.
    """
    if augment not in OF_IMAGES:
        raise ConfigError(f"augment={augment!r} is unknown; choose from {', '.join(OF_IMAGES)}")
    settings = OF_IMAGES[augment]
    if settings is None:
        return None
    config = resolve_data_config({}, model=model)
    transform: Transform = create_transform(
        image_size(model) or config["input_size"],
        is_training=True,
        interpolation=config["interpolation"],
        mean=config["mean"],
        std=config["std"],
        **settings,
    )
    return transform


def mixing_of(augment: str, num_classes: int, label_smoothing: float) -> Mix | None:
    """What is done with each batch of one label an image; None for nothing."""
    if augment not in OF_BATCHES:
        return None
    mixup = Mixup(num_classes=num_classes, label_smoothing=label_smoothing, **OF_BATCHES[augment])

    def mix(images: Tensor, labels: Tensor, key: tuple[int, ...]) -> tuple[Tensor, Tensor]:
        even = len(images) - len(images) % 2  # images are mixed in pairs; the last one of an odd number stays
        targets = torch.zeros(len(labels), num_classes, dtype=torch.float32, device=labels.device)
        targets.scatter_(1, labels[:, None], 1.0)
        targets = targets * (1 - label_smoothing) + label_smoothing / num_classes
        if even:
            mixed = images.clone()
            with drawn_from(*key):
                mixed[:even], targets[:even] = mixup(images[:even].clone(), labels[:even])
            return mixed, targets
        return images, targets

    return mix
