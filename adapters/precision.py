"""The type in which a model computes: a smaller one where that is safe, and the one of its images."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch
from torch import Tensor, nn

from adapters.data import Batches
from adapters.errors import TrainingError
from adapters.proof import takes
from adapters.sites import image_size

Autocast = Callable[[], AbstractContextManager[object]]


@contextmanager
def computing_in(model: nn.Module, dtype: torch.dtype | None) -> Iterator[Autocast]:
    """Inside the context, a function that gives torch's autocast for one step; without a type, one that does nothing.

    On a CPU, attention is computed as separate products meanwhile: there the fused kernel takes twice as long in
    bfloat16.
    """
    if dtype is None:
        yield nullcontext
        return
    device = next(model.parameters()).device.type
    fused = [m for m in model.modules() if device == "cpu" and getattr(m, "fused_attn", False)]
    for module in fused:
        module.fused_attn = False  # type: ignore[assignment]
    try:
        yield lambda: torch.autocast(device, dtype)
    finally:
        for module in fused:
            module.fused_attn = True  # type: ignore[assignment]


@contextmanager
def explaining(model: nn.Module, batches: Batches, autocast: torch.dtype | None) -> Iterator[None]:
    """Inside the context, torch's error about images that a model does not take becomes a sentence about them.

    Args:
        model: What computes.
        batches: Its images.
        autocast: The type that autocast converts to, so that the types may differ; None without.

    Raises:
        TrainingError: they have another number of channels or another size than the model takes, or another type.
    """
    try:
        yield
    except torch.OutOfMemoryError:
        raise
    except (RuntimeError, AssertionError) as error:  # timm asserts some sizes
        reason = _mismatch(model, batches.take(torch.zeros(1, dtype=torch.long)).images, autocast)
        if reason:
            raise TrainingError(reason) from error
        raise


def _mismatch(model: nn.Module, images: Tensor, autocast: torch.dtype | None) -> str:
    """Why a model does not take images `(B, C, H, W)`; empty if it may be something else."""
    size, name = image_size(model), type(model).__name__
    if size is not None and images.ndim == 4 and images.shape[1] != size[0]:
        return (
            f"the images have {images.shape[1]} channels, and {name} takes {size[0]}; give a transform that makes such "
            "tensors, or a backbone for these"
        )
    own = next(p for p in model.parameters() if p.is_floating_point())
    if autocast is None and own.dtype != images.dtype:
        return (
            f"the images are {_short(images.dtype)}, and {name} is {_short(own.dtype)}; tune model.float(), with "
            "autocast=torch.bfloat16 for speed"
        )
    if size is not None and images.ndim == 4 and images.shape[2:] != size[1:]:
        # Many networks take every size, so that the error may have another reason.
        there = images.to(own.device)
        if takes(model, torch.nn.functional.interpolate(there, size[1:])) and not takes(model, there):
            height, width = images.shape[2:]
            return (
                f"the images have {height} x {width} pixels, and {name} takes {size[1]} x {size[2]}; resize them, or "
                "make the backbone with img_size= or dynamic_img_size=True"
            )
    return ""


def _short(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
