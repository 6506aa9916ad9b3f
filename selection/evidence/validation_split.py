"""How many of a task's images are learned from, and how many watch over the training."""

from __future__ import annotations

from task2vec import Splits

VALIDATION_SHARE = 0.2  # of a task's images, set aside to watch where none are given


def split_sizes(splits: Splits) -> tuple[int, int]:
    """How many images are learned from and how many watch; which ones they are, a seed decides."""
    if splits.validation is not None:
        return len(splits.train), len(splits.validation)
    learned, watching = splits.train.split(VALIDATION_SHARE)
    return len(learned), len(watching)
