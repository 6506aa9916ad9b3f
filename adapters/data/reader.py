"""Batches in any order, epoch after epoch, read ahead by workers."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

from adapters.data.examples import Batch, Transform, checked, collate
from adapters.errors import TrainingError
from task2vec_base import usual_workers

if TYPE_CHECKING:
    from adapters.data.batches import Batches

Workers = int | Literal["auto"]


class Reader:
    """Batches of a dataset in any order, epoch after epoch, through one `DataLoader` whose workers stay.

    Args:
        batches: The dataset.
        workers: Processes that read ahead; `"auto"` for one a core, eight at most, and none where they would
            not pay: for images in memory on a CPU, for a single batch, and where a process cannot be forked, so that
            each worker would load torch anew and the caller's script would have to guard its main part.
        device: Where the batches will be needed; for an accelerator they are pinned.
        augment: What to do with an image instead of the dataset's transform.
        seed: What is drawn at random follows from it, the epoch and the image's number.
    """

    def __init__(
        self,
        batches: Batches,
        *,
        workers: Workers = 0,
        device: torch.device | None = None,
        augment: Transform | None = None,
        seed: int = 0,
    ) -> None:
        self._batches, self._workers = batches, workers
        self.device = torch.device("cpu") if device is None else device
        self._on_accelerator = self.device.type not in ("cpu", "meta")
        # For an accelerator even resized images are prepared in workers: normalising them here would keep it waiting.
        is_ready = isinstance(batches.dataset, TensorDataset) or not self._on_accelerator
        self._cheap = batches.in_memory and augment is None and is_ready
        self._examples = batches.examples(augment, seed)
        self._keys: list[list[tuple[int | None, int]]] = []
        self._loader: DataLoader[Any] | None = None

    def __len__(self) -> int:
        return len(self._batches)

    def read(self, order: Iterable[Tensor], epoch: int | None = None) -> Iterator[Batch]:
        """The batches of these image numbers, one after the other; those of an epoch are augmented.

        Raises:
            TrainingError: an image cannot be read; names it.
        """
        # The sampler of the loader is this very list.
        self._keys[:] = [[(epoch, int(i)) for i in indices] for indices in order]
        if self._loader is None:
            workers = num_workers(self._workers, len(self._keys), cheap=self._cheap)
            self._loader = DataLoader(
                self._examples,
                batch_sampler=self._keys,  # epochs and numbers instead of numbers alone
                num_workers=workers,
                collate_fn=collate,
                pin_memory=self._on_accelerator,
                persistent_workers=workers > 0,
                generator=torch.Generator(),  # the global one is for the training itself
            )
        for batch in self._loader:
            yield checked(batch)


def num_workers(workers: Workers, num_batches: int, *, cheap: bool) -> int:
    """How many processes read; see `Reader`.

    Raises:
        TrainingError: neither `"auto"` nor a whole number from 0.
    """
    if workers == "auto":
        return usual_workers(num_batches, cheap=cheap)
    if isinstance(workers, bool) or not isinstance(workers, int) or workers < 0:
        raise TrainingError(f"workers={workers!r} cannot read images; give 'auto', 0, or a number of processes")
    return workers
