"""Computing in a smaller type where that is safe."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch
from torch import nn

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
