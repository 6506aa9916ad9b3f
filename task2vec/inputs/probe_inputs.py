"""What the probe takes in: a task's images or, to save time, what they have become at a later layer.

Passes over a task read the same images again and again, so that each is decoded only once. With an entry, what precedes
it is computed once, too, and kept in memory or, where that is too much, in a temporary file.
"""

from __future__ import annotations

import math
import os
import tempfile
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from task2vec.errors import ProbeError, UnreadableImageError
from task2vec.inputs.entry import Entry
from task2vec.inputs.measurable import another, measurable_layers
from task2vec.probe import Probe
from task2vec.progress import Report
from task2vec.tasks import Task
from task2vec.tasks.reading import Workers
from task2vec.tasks.room import MEMORY_SHARE, room_for


class ProbeInputs:
    """The readable images of a task on their way into a probe.

    Args:
        task: The labelled images; those that cannot be decoded are left out of `self.task`.
        probe: The network.
        from_layer: The module before which everything is computed once; None for the images themselves.
        batch_size: Images at once.
        report: Told how far it is.
        workers: Processes that read images.

    Attributes:
        task: The task without unreadable images.
        batch_size: Images at once.
        features: float32 `(N, d)`, the classifier's inputs.
        layers: The measured layers at and after the entry.
        unmeasured: Weights of layers that the features do not depend on through a call of the layer on images: the
            network reads the weight itself, as BEiT does of its query-key-value layers, calls the layer on something
            that all images share, as Swin V2 does to tell positions apart, makes another weight of it in each forward
            pass, as networks with standardised kernels do, shares it between layers or reads it beside their calls,
            computes the layer without gradients, or does not use it at all.

    Raises:
        UnreadableImageError: fewer than 90% of the images can be decoded.
        ProbeError: there is no such module, what precedes it is also used after it, no layer can be measured, or the
            network mixes the images of a batch.
    """

    def __init__(
        self,
        task: Task,
        probe: Probe,
        *,
        from_layer: str | None,
        batch_size: int,
        report: Report,
        workers: Workers = "auto",
    ) -> None:
        self.task = task = task.decoded(probe.transform, workers=workers, progress=report)
        self.probe, self.batch_size, self._workers = probe, batch_size, workers
        self._on_accelerator = probe.device.type not in ("cpu", "meta")
        self.layers = probe.layers
        self.unmeasured: tuple[str, ...] = ()
        self._one_by_one = False  # whether layers see rows of several images among each other
        self._entry = None if from_layer is None else Entry(probe, from_layer)
        self._kept: Tensor | None = None
        rows: list[Tensor] = []
        for numbers, images in self._images(np.arange(len(task)), batch_size):
            if not rows:
                image = images[:1].to(probe.device, probe.dtype)
                self.layers, self.unmeasured, self._one_by_one = measurable_layers(probe, image)
            features = self._first_pass(images, numbers)
            rows.append(features.float())
            report("Extracting features", int(numbers[-1]) + 1, len(task))
        self.features: npt.NDArray[np.float32] = torch.cat(rows).cpu().numpy()

    def batches(self, images: npt.NDArray[np.int64], batch_size: int) -> Iterator[tuple[Tensor, Tensor]]:
        """The inputs of these images on the probe's device, a batch at a time, with the images' numbers."""
        batch_size = 1 if self._one_by_one else batch_size
        if self._kept is None:
            yield from self._images(images, batch_size)
            return
        for batch in torch.from_numpy(images).split(batch_size):
            yield batch, self._kept[batch].to(self.probe.device)

    def _images(self, images: npt.NDArray[np.int64], batch_size: int) -> Iterator[tuple[Tensor, Tensor]]:
        """These images as the probe takes them, with their numbers."""
        selected = self.task.select(images)
        for start, tensors, failures in selected.batches(
            self.probe.transform, batch_size, workers=self._workers, pin=self._on_accelerator
        ):
            if failures:  # it could be read before
                raise UnreadableImageError(next(iter(failures.values())))
            numbers = torch.from_numpy(images[start : start + batch_size])
            yield numbers, tensors.to(self.probe.device, self.probe.dtype, non_blocking=True)

    @contextmanager
    def feature_tap(self) -> Iterator[Callable[[Tensor], Tensor]]:
        """Inside the context, a function from what `batches` gives to features `(N, d)`."""
        with self.probe.feature_tap() as features:
            if self._entry is None:
                yield features
                return
            with self._entry.replaying() as replay:
                yield lambda inputs: replay(inputs, features)

    def _first_pass(self, images: Tensor, numbers: Tensor) -> Tensor:
        """Features of these images; with an entry, its inputs are kept."""
        if self._entry is None:
            return self.probe.features(images)
        with self._entry.recording() as recorded:
            features = self.probe.features(images)
        inputs = recorded[0]
        if self._kept is None:
            self._check_entry(self._entry, images, inputs, features)
            self._kept = _rows(len(self.task), inputs)
        self._kept[numbers] = inputs.cpu()
        return features

    def _check_entry(self, entry: Entry, images: Tensor, inputs: Tensor, features: Tensor) -> None:
        """Enter the first batch at the entry, note which layers run, and compare with the whole way."""
        # None of the batch: what precedes the entry must not matter, be the batch a single image.
        entry.image = another(images[:1].to(self.probe.device, self.probe.dtype))
        refusal = ProbeError(
            f"from_layer={entry.name!r} cannot be entered: something before it is also used after it, as by a "
            "shortcut; give the block or stage around it"
        )
        try:
            with torch.no_grad(), self.probe.feature_tap() as tap, entry.replaying() as replay:
                after, found = entry.layers_after(lambda: replay(inputs.to(self.probe.device), tap))
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:  # one image met the rows of a batch
            raise refusal from error
        if found.shape != features.shape or not torch.allclose(found, features, rtol=1e-2, atol=1e-3):
            raise refusal
        self.layers = {name: layer for name, layer in after.items() if name in self.layers}
        if not self.layers:
            raise ProbeError(f"nothing from {entry.name!r} on can be measured; give an earlier module as from_layer")


def _rows(count: int, like: Tensor) -> Tensor:
    """Room for so many rows as those of a batch `(B, ...)`: in memory, or in a file that is removed with it."""
    shape = (count, *like.shape[1:])
    size = math.prod(shape)
    if size * like.element_size() <= room_for(MEMORY_SHARE).memory:
        return torch.empty(shape, dtype=like.dtype)
    handle, name = tempfile.mkstemp(prefix="task2vec-", suffix=".inputs")
    os.close(handle)
    rows = torch.from_file(name, shared=True, size=size, dtype=like.dtype).view(shape)
    weakref.finalize(rows, Path(name).unlink, missing_ok=True)
    return rows
