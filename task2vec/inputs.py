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
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from task2vec.errors import ProbeError, UnreadableImageError
from task2vec.fisher.per_sample import is_plain
from task2vec.probe import MEASURED, Probe
from task2vec.progress import Report
from task2vec.tasks import Task
from task2vec.tasks.reading import Workers
from task2vec.tasks.room import MEMORY_SHARE, room_for

BATCH_BYTES = 2**30  # activations of one batch, when the batch size is chosen here
MAX_BATCH = 64
NOISE = 1e-3  # of the largest input: what the size of a batch may change by rounding
COMPARED = 1000  # numbers of a layer's input by which images are told apart


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
            pass, as networks with standardised kernels do, or does not use it at all.

    Raises:
        UnreadableImageError: fewer than 90% of the images can be decoded.
        ProbeError: there is no such module, or what precedes it is also used after it.
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
        self._entry = None if from_layer is None else _Entry(probe, from_layer)
        self._kept: Tensor | None = None
        rows: list[Tensor] = []
        for numbers, images in self._images(np.arange(len(task)), batch_size):
            if not rows:
                self._find_measurable(images)
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

    def _find_measurable(self, images: Tensor) -> None:
        """Keep to the layers that one image's gradient reaches, that see more of two images than of one, and that
        compute with their own weights.
        """
        outputs: dict[str, Tensor] = {}
        image = images[:1].to(self.probe.device, self.probe.dtype)
        other = 0.5 - image.flip(3)  # any that differs
        one, two, both = (self._seen(each) for each in (image, other, torch.cat([image, other])))
        by_image = {name for name in one if [2 * call.size for call in one[name]] == [call.size for call in both[name]]}
        by_image -= {name for name in one if not all(call.is_plain for call in one[name])}
        calls = (seen for name in by_image for seen in zip(one[name], two[name], both[name], strict=False))
        self._one_by_one = any(_mixed(*seen) for seen in calls)

        def keep(name: str, output: Tensor) -> Tensor:
            outputs[name] = output if output.requires_grad else output.detach().requires_grad_().clone()
            return outputs[name]

        handles = [
            layer.register_forward_hook(lambda _, args, output, name=name: keep(name, output))
            for name, layer in self.probe.layers.items()
        ]
        try:
            with torch.enable_grad(), self.probe.feature_tap() as features:
                taken = features(image.requires_grad_())
        finally:
            for handle in handles:
                handle.remove()
        gradients = torch.autograd.grad(taken.sum(), list(outputs.values()), allow_unused=True)
        reached = {n for n, gradient in zip(outputs, gradients, strict=True) if gradient is not None} & by_image
        if not reached:
            raise ProbeError(f"no gradient reaches a layer of {self.probe.name}; its features cannot be measured")
        self.layers = {name: layer for name, layer in self.probe.layers.items() if name in reached}
        self.unmeasured = tuple(f"{name}.weight" for name in self.probe.layers if name not in reached)

    def _seen(self, images: Tensor) -> dict[str, list[_Call]]:
        """What each layer is called on, call by call."""
        calls: dict[str, list[_Call]] = {name: [] for name in self.probe.layers}

        def note(name: str, layer: nn.Linear | nn.Conv2d, inputs: Tensor, output: Tensor) -> None:
            rows = inputs.reshape(len(images), -1) if inputs.numel() % len(images) == 0 else inputs.reshape(1, -1)
            some = rows[:, :: max(1, rows.shape[1] // COMPARED)].clone()
            plain = type(layer) in MEASURED or is_plain(layer, inputs, output)
            calls[name].append(_Call(inputs.numel(), some, plain))

        handles = [
            # First, so that it sees the layer's own output and not what another hook makes of it.
            layer.register_forward_hook(
                lambda _, args, output, name=name, layer=layer: note(name, layer, args[0], output), prepend=True
            )
            for name, layer in self.probe.layers.items()
        ]
        try:
            with torch.no_grad(), self.probe.feature_tap() as features:
                features(images)
        finally:
            for handle in handles:
                handle.remove()
        return calls

    def _check_entry(self, entry: _Entry, images: Tensor, inputs: Tensor, features: Tensor) -> None:
        """Enter the first batch at the entry, note which layers run, and compare with the whole way."""
        entry.image = images[:1].to(self.probe.device, self.probe.dtype)
        with torch.no_grad(), self.probe.feature_tap() as tap, entry.replaying() as replay:
            after, found = entry.layers_after(lambda: replay(inputs.to(self.probe.device), tap))
            self.layers = {name: layer for name, layer in after.items() if name in self.layers}
        if found.shape != features.shape or not torch.allclose(found, features, rtol=1e-2, atol=1e-3):
            raise ProbeError(
                f"from_layer={entry.name!r} cannot be entered: something before it is also used after it, as by a "
                "shortcut; give the block or stage around it"
            )
        if not self.layers:
            raise ProbeError(f"nothing from {entry.name!r} on can be measured; give an earlier module as from_layer")


class _Call(NamedTuple):
    """A call of a layer on B images.

    Attributes:
        size: How many numbers went in.
        some: Some of them, `(B, k)`, as if the rows of each image followed each other.
        is_plain: Whether what came out is what its weight makes of them.
    """

    size: int
    some: Tensor
    is_plain: bool


def _mixed(one: _Call, two: _Call, both: _Call) -> bool:
    """Whether a layer that is called on both images sees the rows of one between those of the other, as where tokens
    come before images.
    """
    expected = torch.cat([one.some, two.some])
    apart = (one.some - two.some).abs().max()  # a part that is large in every image tells nothing
    noise = max(NOISE, 10 * torch.finfo(expected.dtype).eps) * expected.abs().max()
    return bool(apart > noise and (both.some - expected).abs().max() > apart / 10)


class _Entry:
    """A module whose input is recorded once and given back later.

    To enter there, the network is run on a single image, and at the module that image's input is replaced by the batch
    that was recorded: whatever the network is, only one image goes through what precedes the module.
    """

    def __init__(self, probe: Probe, name: str) -> None:
        modules = dict(probe.module.named_modules())
        if name not in modules or not name:
            blocks = [n for n in modules if n.count(".") == 0 and n][:12]
            raise ProbeError(f"{probe.name} has no module {name!r} to enter at; it has {', '.join(blocks)} and more")
        self.name, self.probe, self.module = name, probe, modules[name]
        self.image = torch.empty(0)

    @contextmanager
    def recording(self) -> Iterator[list[Tensor]]:
        """Inside the context, the module's inputs are collected."""
        recorded: list[Tensor] = []
        handle = self.module.register_forward_pre_hook(lambda _, args: recorded.append(args[0].detach()))
        try:
            yield recorded
        finally:
            handle.remove()
        if len(recorded) != 1:
            raise ProbeError(f"from_layer={self.name!r} is called {len(recorded)} times an image; give one called once")

    @contextmanager
    def replaying(self) -> Iterator[Callable[[Tensor, Callable[[Tensor], Tensor]], Tensor]]:
        """Inside the context, a function that runs the network (`Tensor -> Tensor`) from the module on."""
        given: list[Tensor] = []
        handle = self.module.register_forward_pre_hook(lambda _, args: (given[0], *args[1:]))

        def replay(inputs: Tensor, network: Callable[[Tensor], Tensor]) -> Tensor:
            given[:] = [inputs]
            return network(self.image)

        try:
            yield replay
        finally:
            handle.remove()

    def layers_after(self, run: Callable[[], Tensor]) -> tuple[dict[str, nn.Linear | nn.Conv2d], Tensor]:
        """The measured layers that run only after the module was entered, and what the run gives."""
        before: set[str] = set()
        after: set[str] = set()
        current = before

        def enter(*_: Any) -> None:
            nonlocal current
            current = after

        handles = [self.module.register_forward_pre_hook(enter)]
        handles += [
            layer.register_forward_hook(lambda *_, name=name: current.add(name))
            for name, layer in self.probe.layers.items()
        ]
        try:
            result = run()
        finally:
            for handle in handles:
                handle.remove()
        return {name: layer for name, layer in self.probe.layers.items() if name in after - before}, result


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


def choose_batch_size(task: Task, probe: Probe) -> int:
    """How many images at once: as many as keep the activations of a batch within `BATCH_BYTES`, a power of two.

    It depends on the probe and the size of its inputs alone, so that results do not change from machine to machine.
    """
    image = next((images for _, images, _ in task.batches(probe.transform, 1, workers=0) if len(images)), None)
    if image is None:
        return 1
    total = image.numel() * image.element_size()

    def count(module: nn.Module, args: Any, output: Any) -> None:
        nonlocal total
        if isinstance(output, Tensor):
            total += output.numel() * output.element_size()

    handles = [m.register_forward_hook(count) for m in probe.module.modules() if not list(m.children())]
    try:
        probe.features(image)
    finally:
        for handle in handles:
            handle.remove()
    return 2 ** int(np.log2(np.clip(BATCH_BYTES // (2 * total), 1, MAX_BATCH)))
