"""The pretrained backbone of the ground: ImageNet-21k's ViT-tiny, at 96 pixels so that many trials are possible."""

from __future__ import annotations

from pathlib import Path

import timm
import torch
from timm.data import create_transform
from torch import nn

from adapters.data import Batches, Transform

from .tasks import GroundTask

NAME = "vit_tiny_patch16_224.augreg_in21k_ft_in1k"
IMAGE_SIZE = 96
AUTOCAST = torch.bfloat16


def load_vit(weights: Path, image_size: int = IMAGE_SIZE) -> nn.Module:
    """The backbone with local weights; its position embeddings are resampled to smaller images by timm."""
    model: nn.Module = timm.create_model(
        NAME, pretrained=True, pretrained_cfg_overlay={"file": str(weights)}, img_size=image_size
    )
    return model


def transform(image_size: int = IMAGE_SIZE) -> Transform:
    """Whole images, nothing cropped, since the tasks' images are small."""
    made: Transform = create_transform(
        (3, image_size, image_size), crop_pct=1.0, interpolation="bicubic", mean=(0.5,) * 3, std=(0.5,) * 3
    )
    return made


def batches_of(
    task: GroundTask, images: int, seed: int, image_size: int = IMAGE_SIZE
) -> tuple[Batches, Batches, Batches]:
    """Training, validation and test images of a draw, decoded."""
    train, validation, test = (Batches(part, transform(image_size)) for part in task.draw(images, seed))
    return train, validation, test
