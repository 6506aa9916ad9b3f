"""Which backbone to tune where none is named: by the size of the images, and by what weights can be had."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import timm
from torch import nn

import adapters
from adapters.sites import image_size
from selection.errors import SelectionError
from task2vec import Task, UnreadableImageError
from task2vec.weights import hub_answers, weights_at_hand

SMALL = 64  # pixels of the shorter side up to which the bundled backbone is enough
FOR_PHOTOGRAPHS = "vit_tiny_patch16_224.augreg_in21k_ft_in1k"
LARGER = (FOR_PHOTOGRAPHS, "vit_base_patch16_384.augreg_in21k_ft_in1k", "vit_small_patch14_dinov2.lvd142m")
LOOKED_AT = 32  # images whose size is taken for that of all
MUCH = 2.0  # times the backbone's input is much larger


class BackboneChoice(NamedTuple):
    """A backbone, and why it was chosen.

    Attributes:
        name: timm's name.
        reason: A sentence for the user.
    """

    name: str
    reason: str


def default_backbone(task: Task) -> BackboneChoice:
    """The backbone to tune on a task: a pretrained one of 224 px for photographs, the bundled one of 32 px otherwise.

    The bundled one stands in too where the weights of the other are neither at hand nor to be had, which takes up to
    three seconds to find out.

    Raises:
        SelectionError: none of the images that were looked at can be read.
    """
    width, height = median_size(task)
    images = f"the images are about {width} x {height} pixels"
    bundled = adapters.DEFAULT_BACKBONE
    if min(width, height) <= SMALL:
        return BackboneChoice(bundled, f"{images}, for which the bundled {bundled} of 32 px is enough")
    if weights_at_hand(FOR_PHOTOGRAPHS):
        return BackboneChoice(FOR_PHOTOGRAPHS, f"{images}, and the weights of {FOR_PHOTOGRAPHS} are at hand")
    if hub_answers():
        return BackboneChoice(FOR_PHOTOGRAPHS, f"{images}; the weights of {FOR_PHOTOGRAPHS} are being downloaded")
    return BackboneChoice(
        bundled,
        f"{images}, but the weights of {FOR_PHOTOGRAPHS} are not at hand and cannot be downloaded, so that the bundled "
        f"{bundled} of 32 px stands in; give --backbone and --checkpoint for better ones",
    )


def shrinking(task: Task, backbone: nn.Module) -> str:
    """A sentence on images that are much larger than what a backbone takes; empty if they are not.

    Raises:
        SelectionError: none of the images that were looked at can be read.
    """
    taken = image_size(backbone)
    width, height = median_size(task)
    if taken is None or min(width, height) <= MUCH * max(taken[1:]):
        return ""
    larger = [f"{name} ({side} px)" for name in LARGER if (side := _side(name)) > max(taken[1:])]
    which = f"; these take larger ones with --backbone: {', '.join(larger)}" if larger else ""
    return f"images of about {width} x {height} pixels are shrunk to the {taken[1]} x {taken[2]} of the backbone{which}"


def median_size(task: Task) -> tuple[int, int]:
    """Median width and height in pixels of some images, spread over the whole task.

    Raises:
        SelectionError: none of them can be read.
    """
    sizes = []
    for index in np.unique(np.linspace(0, len(task) - 1, LOOKED_AT).astype(int)):
        try:
            sizes.append(task.images(int(index)).size)
        except UnreadableImageError:
            continue
    if not sizes:
        raise SelectionError(f"none of the first images of task {task.name!r} can be read; check {task.source}")
    width, height = np.median(sizes, axis=0)
    return int(width), int(height)


def _side(name: str) -> int:
    config = timm.get_pretrained_cfg(name)
    return 0 if config is None else max(config.input_size[1:])
