"""The last step of every low-rank branch, as one pass over memory."""

from __future__ import annotations

import torch
from torch import Tensor


def add_product(output: Tensor, hidden: Tensor, weight: Tensor, scale: float) -> Tensor:
    """`output + scale * hidden @ weight.T`.

    Args:
        output: `(..., d)`.
        hidden: `(..., r)`, with as many rows.
        weight: `(d, r)`.
        scale: A plain number.
    """
    rows = torch.addmm(output.reshape(-1, weight.shape[0]), hidden.reshape(-1, weight.shape[1]), weight.mT, alpha=scale)
    return rows.view(output.shape)
