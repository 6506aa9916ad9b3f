"""What a block gives, averaged over a few cells of the image, so that where something is stays visible.

The mean over all positions, which classifiers usually get, tells no left from right.
"""

from __future__ import annotations

import math

import torch.nn.functional as F
from torch import Tensor

MOST_PREFIX_TOKENS = 8  # class, distillation and register tokens


def pooled(output: Tensor, width: int, cells: int, grid: tuple[int, int] | None = None) -> Tensor:
    """Means over `cells` x `cells` parts of the image, `(N, width * cells^2)`; with one cell, over all positions.

    Args:
        output: Tokens `(N, T, width)`, or maps `(N, width, H, W)` or `(N, H, W, width)`.
        width: The number of features.
        cells: How many parts each side is divided into.
        grid: Height and width of the tokens' grid, which comes last in the sequence. Without it, or where the images
            are of another size than it is for, the largest square that leaves no more than `MOST_PREFIX_TOKENS` out; if
            there is none, the sequence is divided as it comes.
    """
    if output.ndim == 3:
        height, columns = grid if grid and _fits(output.shape[1], *grid) else _square(output.shape[1])
        if not height:
            return F.adaptive_avg_pool1d(output.transpose(1, 2), cells**2).flatten(1)
        maps = output[:, output.shape[1] - height * columns :].transpose(1, 2).unflatten(2, (height, columns))
    else:
        maps = output if output.shape[1] == width else output.permute(0, 3, 1, 2)
    return F.adaptive_avg_pool2d(maps, cells).flatten(1)


def ends_of_parts(count: int, parts: int) -> list[int]:
    """The last of each of some equal parts of `count` things in a row; with fewer things than parts, some repeat."""
    return [max(0, round((part + 1) * count / parts) - 1) for part in range(parts)] if count else []


def _square(tokens: int) -> tuple[int, int]:
    side = math.isqrt(tokens)
    return (side, side) if _fits(tokens, side, side) else (0, 0)


def _fits(tokens: int, height: int, columns: int) -> bool:
    return 0 <= tokens - height * columns <= MOST_PREFIX_TOKENS
