"""What a model gives for two patterns, kept with it so that it is known again.

A result is loaded by its backbone's name. A backbone that was made with further arguments (another pooling, stride or
activation) has the same weights and gives something else, and so do weights that were damaged: only outputs tell.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from adapters.proof import evaluating

Outputs = tuple[tuple[float, ...], ...]
"""A row of logits for each pattern."""

STEPS = (0.37, 0.73)  # of the patterns: waves, since seeded noise may differ between versions of torch
TOLERANCE = 5e-3  # of the largest output: another device adds in another order
TOLERANCE_SHORT = 5e-2  # the same for weights of 16 bits


def outputs_of(model: nn.Module, input_size: Sequence[int]) -> Outputs:
    """What a model gives in evaluation mode for patterns of the size `(C, H, W)`; empty where it takes none."""
    parameter = next(model.parameters())
    count = int(np.prod(tuple(input_size)))
    waves = np.stack([np.sin(step * np.arange(count)) for step in STEPS]).reshape(len(STEPS), *input_size)
    try:
        with (
            evaluating(model),
            torch.no_grad(),
            torch.backends.cudnn.flags(enabled=torch.backends.cudnn.enabled, allow_tf32=False),
        ):
            logits: Tensor = model(torch.from_numpy(waves).to(parameter.device, parameter.dtype))
    except RuntimeError:  # it is tuned all the same, and a result that nobody can check is better than none
        return ()
    return tuple(tuple(float(f"{value:.6g}") for value in row) for row in logits.float().cpu().tolist())


def gives(model: nn.Module, input_size: Sequence[int], outputs: Outputs) -> bool:
    """Whether a model gives these outputs, up to rounding; true where none were kept."""
    if not outputs:
        return True
    found, expected = np.array(outputs_of(model, input_size)), np.array(outputs)
    if found.shape != expected.shape:
        return False
    tolerance = TOLERANCE if next(model.parameters()).dtype.itemsize > 2 else TOLERANCE_SHORT
    return bool(np.abs(found - expected).max() <= tolerance * max(np.abs(expected).max(), 1e-12))
