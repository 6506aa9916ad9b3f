"""What the probe takes in: a task's images or, to save time, what they have become at a later layer.

Passes over a task read the same images again and again. They are decoded once and kept as long as they fit in memory;
with an entry, what precedes it is computed once, too.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from task2vec.errors import ProbeError
from task2vec.probe import Probe
from task2vec.progress import Report
from task2vec.task import Task

KEEP_BYTES = 2**30  # inputs that need more than this are made anew for each pass
BATCH_BYTES = 2**30  # activations of one batch, when the batch size is chosen here
MAX_BATCH = 64


class ProbeInputs:
    """The readable images of a task on their way into a probe.

    Args:
        task: The labelled images; those that cannot be decoded are left out of `self.task`.
        probe: The network.
        from_layer: The module before which everything is computed once; None for the images themselves.
        batch_size: Images at once.
        report: Told how far it is.

    Attributes:
        task: The task without unreadable images.
        features: float32 `(N, d)`, the classifier's inputs.
        layers: The measured layers at and after the entry.
        unmeasured: Weights of layers that the features do not depend on through a call of the layer: the network reads
            the weight itself, as BEiT does of its query-key-value layers, or does not use the layer at all.

    Raises:
        UnreadableImageError: fewer than 90% of the images can be decoded.
        ProbeError: there is no such module, or what precedes it is also used after it.
    """

    def __init__(self, task: Task, probe: Probe, *, from_layer: str | None, batch_size: int, report: Report) -> None:
        self.probe = probe
        self.layers = probe.layers
        self.unmeasured: tuple[str, ...] = ()
        self._entry = None if from_layer is None else _Entry(probe, from_layer)
        self._kept: Tensor | None = None
        rows: list[Tensor] = []
        bad: dict[int, str] = {}
        filled = 0
        for start, images, failures in task.batches(probe.transform, batch_size):
            bad |= {start + offset: name for offset, name in failures.items()}
            if len(images):
                if not rows:
                    self._find_measurable(images)
                features, inputs = self._first_pass(images)
                if self._entry is not None and not rows:
                    self._check_entry(self._entry, images, inputs, features)
                if not rows and len(task) * inputs[0].numel() * inputs.element_size() <= KEEP_BYTES:
                    self._kept = inputs.new_empty((len(task), *inputs.shape[1:]))
                if self._kept is not None:
                    self._kept[filled : filled + len(inputs)] = inputs
                filled += len(inputs)
                rows.append(features.float().cpu())
            report("Extracting features", min(start + batch_size, len(task)), len(task))
        self.task = task.without(bad)
        self.features: npt.NDArray[np.float32] = torch.cat(rows).numpy()

    def batches(self, images: npt.NDArray[np.int64], batch_size: int) -> Iterator[tuple[Tensor, Tensor]]:
        """The inputs of these images on the probe's device, a batch at a time, with the images' numbers."""
        if self._kept is None:
            for start, tensors, _ in self.task.select(images).batches(self.probe.transform, batch_size):
                yield (
                    torch.from_numpy(images[start : start + batch_size]),
                    tensors.to(self.probe.device, self.probe.dtype),
                )
            return
        for batch in torch.from_numpy(images).split(batch_size):
            yield batch, self._kept[batch].to(self.probe.device)

    @contextmanager
    def feature_tap(self) -> Iterator[Callable[[Tensor], Tensor]]:
        """Inside the context, a function from what `batches` gives to features `(N, d)`."""
        with self.probe.feature_tap() as features:
            if self._entry is None or self._kept is None:
                yield features
                return
            with self._entry.replaying() as replay:
                yield lambda inputs: replay(inputs, features)

    def _first_pass(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Features, and what to keep of these images."""
        if self._entry is None:
            return self.probe.features(images), images.to(self.probe.dtype)
        with self._entry.recording() as recorded:
            features = self.probe.features(images)
        return features, recorded[0].cpu()

    def _find_measurable(self, images: Tensor) -> None:
        """Keep to the layers that one image's gradient reaches."""
        outputs: dict[str, Tensor] = {}

        def keep(name: str, output: Tensor) -> Tensor:
            outputs[name] = output if output.requires_grad else output.detach().requires_grad_().clone()
            return outputs[name]

        handles = [
            layer.register_forward_hook(lambda _, args, output, name=name: keep(name, output))
            for name, layer in self.probe.layers.items()
        ]
        image = images[:1].to(self.probe.device, self.probe.dtype)
        try:
            with torch.enable_grad(), self.probe.feature_tap() as features:
                taken = features(image.requires_grad_())
        finally:
            for handle in handles:
                handle.remove()
        gradients = torch.autograd.grad(taken.sum(), list(outputs.values()), allow_unused=True)
        reached = {name for name, gradient in zip(outputs, gradients, strict=True) if gradient is not None}
        if not reached:
            raise ProbeError(f"no gradient reaches a layer of {self.probe.name}; its features cannot be measured")
        self.layers = {name: layer for name, layer in self.probe.layers.items() if name in reached}
        self.unmeasured = tuple(f"{name}.weight" for name in self.probe.layers if name not in reached)

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


def choose_batch_size(task: Task, probe: Probe) -> int:
    """How many images at once: as many as keep the activations of a batch within `BATCH_BYTES`, a power of two.

    It depends on the probe and the size of its inputs alone, so that results do not change from machine to machine.
    """
    image = next((images for _, images, _ in task.batches(probe.transform, 1) if len(images)), None)
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
