"""Images through torch's `DataLoader`, in this process or in workers, a batch at a time and in order.

An image that cannot be decoded never raises inside a worker: its error comes back in its place, as a value.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any, Generic, Literal, TypeVar

import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from task2vec.errors import Task2VecError, UnreadableImageError
from task2vec.tasks.preprocessing import Resize, Transform
from task2vec.tasks.sources import ImageSource
from task2vec_base import usual_workers

PREFETCH = 2  # batches that each worker prepares ahead

Workers = int | Literal["auto"]
Made = TypeVar("Made")
Batch = TypeVar("Batch")


def num_workers(workers: Workers, num_batches: int, *, cheap: bool = False) -> int:
    """How many worker processes read; `"auto"` is `usual_workers`.

    Raises:
        Task2VecError: neither `"auto"` nor a whole number from 0.
    """
    if workers == "auto":
        return usual_workers(num_batches, cheap=cheap)
    if isinstance(workers, bool) or not isinstance(workers, int) or workers < 0:
        raise Task2VecError(f"workers={workers!r} cannot read images; give 'auto', 0, or a number of processes")
    return workers


@dataclasses.dataclass(frozen=True)
class Prepare:
    """Image number to tensor: what is kept of the image, and what its preprocessing does after the resize."""

    images: ImageSource
    resize: Resize
    finish: Transform

    def __call__(self, index: int) -> Tensor:
        """The tensor of image `index`."""
        return self.finish(self.images.resized(index, self.resize))


@dataclasses.dataclass(frozen=True)
class ResizedImages:
    """Image number to the image after a resize."""

    images: ImageSource
    resize: Resize

    def __call__(self, index: int) -> Image.Image:
        """Image `index` after the resize."""
        return self.images.resized(index, self.resize)


@dataclasses.dataclass(frozen=True)
class _Items(Dataset[Any], Generic[Made]):
    make: Callable[[int], Made]

    def __getitem__(self, index: int) -> Made | Task2VecError:
        try:
            return self.make(index)
        except Task2VecError as error:
            return error


def read(
    make: Callable[[int], Made],
    count: int,
    batch_size: int,
    collate: Callable[[list[Made]], Batch],
    *,
    workers: int = 0,
    pin: bool = False,
) -> Iterator[tuple[int, Batch, dict[int, str]]]:
    """What `make` makes of the images 0 to `count - 1`, in order.

    Args:
        make: Called with an image's number, in a worker if there are any. It is picklable.
        count: How many images there are.
        batch_size: Images at once.
        collate: Puts what was made of a batch's readable images together, in the worker.
        workers: Processes that read ahead; 0 to read here.
        pin: Put tensors where an accelerator can fetch them by itself.

    Yields:
        The batch's first index, the batch, and a message for each offset in it that is unreadable.

    Raises:
        Task2VecError: an image is not one at all; unlike one that cannot be decoded, that is the caller's mistake.
    """
    loader = DataLoader(
        _Items(make),
        batch_sampler=[list(range(i, min(i + batch_size, count))) for i in range(0, count, batch_size)],
        num_workers=workers,
        collate_fn=_Collate(collate),
        pin_memory=pin,
        prefetch_factor=PREFETCH if workers else None,
        generator=torch.Generator(),  # the global one is the caller's
    )
    start = 0
    for size, batch, failures, mistake in loader:
        if mistake is not None:
            raise mistake
        yield start, batch, failures
        start += size


@dataclasses.dataclass(frozen=True)
class _Collate(Generic[Made, Batch]):
    collate: Callable[[list[Made]], Batch]

    def __call__(self, items: list[Made | Task2VecError]) -> tuple[int, Batch, dict[int, str], Task2VecError | None]:
        failures = {i: str(item) for i, item in enumerate(items) if isinstance(item, UnreadableImageError)}
        errors = [item for item in items if isinstance(item, Task2VecError)]
        mistake = next((error for error in errors if not isinstance(error, UnreadableImageError)), None)
        made = [item for item in items if not isinstance(item, Task2VecError)]
        return len(items), self.collate(made), failures, mistake


def stacked(tensors: list[Tensor]) -> Tensor:
    """One tensor `(B, ...)`; an empty one where no image of the batch is readable."""
    return torch.stack(tensors) if tensors else torch.empty(0)
