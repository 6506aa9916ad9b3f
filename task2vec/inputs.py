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
from task2vec.fisher.per_sample import SquaredGradients
from task2vec.probe import Probe, given_to
from task2vec.progress import Report
from task2vec.tasks import Task
from task2vec.tasks.reading import Workers
from task2vec.tasks.room import MEMORY_SHARE, room_for

BATCH_BYTES = 2**30  # activations of one batch, when the batch size is chosen here
MAX_BATCH = 64
NOISE = 1e-3  # of the largest input: what the size of a batch may change by rounding
ALIKE = 4e-3  # of a layer's squared gradients: what two ways to compute them may differ by, be it in TF32
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
        """Keep to the layers that see more of two images than of one, and whose gradients are those of their weights.

        Raises:
            ProbeError: there are none, or an image's features depend on the images beside it.
        """
        image = images[:1].to(self.probe.device, self.probe.dtype)
        other = _another(image)
        one, two, both = (self._seen(each) for each in (image, other, torch.cat([image, other])))
        if _mixed(one.features, two.features, both.features, share=0.01):
            raise ProbeError(
                f"{self.probe.name} mixes the images of a batch: an image's features depend on those beside it; give a "
                "network that does not, such as one whose batch norm keeps running statistics"
            )
        sizes = ([[call.size for call in seen.calls[name]] for seen in (one, both)] for name in self.probe.layers)
        by_image = {
            name
            for name, (alone, together) in zip(self.probe.layers, sizes, strict=True)
            if [2 * size for size in alone] == together
        }
        calls = (c for name in by_image for c in zip(one.calls[name], two.calls[name], both.calls[name], strict=False))
        self._one_by_one = any(_mixed(*(call.some for call in seen), share=0.1) for seen in calls)
        measurable = self._with_own_gradients(image, by_image)
        if not measurable:
            raise ProbeError(
                f"no layer of {self.probe.name} can be measured: the features depend on none of them by a call on "
                "images; look at how the network uses its layers"
            )
        self.layers = {name: layer for name, layer in self.probe.layers.items() if name in measurable}
        self.unmeasured = tuple(f"{name}.weight" for name in self.probe.layers if name not in measurable)

    def _with_own_gradients(self, image: Tensor, names: set[str]) -> set[str]:
        """Those of the layers that a gradient reaches, and whose weights have no other one than what is met at calls.

        Autograd finds the whole gradient: that of a weight which several layers share, or which the network reads
        beside the layer's calls, is another one. It is taken of one image, for a random combination of the features.
        """
        layers = {name: layer for name, layer in self.probe.layers.items() if name in names}
        weights = {name: layer.weight for name, layer in layers.items() if isinstance(layer.weight, nn.Parameter)}
        before = [(weight, weight.requires_grad, weight.grad) for weight in set(weights.values())]
        expected: dict[Tensor, Tensor] = {}

        def square(weight: Tensor) -> None:  # at once, so that no more than one gradient is kept
            assert weight.grad is not None
            expected[weight] = _wide(weight.grad).square().flatten(1).mean(dim=1)
            weight.grad = None

        recorder = SquaredGradients(layers, 1)
        handles = []
        try:
            for weight, _, _ in before:
                weight.requires_grad_(True).grad = None
                handles.append(weight.register_post_accumulate_grad_hook(square))
            # What a network changes in place after a layer has seen it has to be there for autograd's gradient.
            with torch.enable_grad(), torch.autograd.graph.allow_mutation_on_saved_tensors():
                with recorder.recording(), self.probe.feature_tap() as features:
                    taken = features(image)
                if not taken.requires_grad:
                    return set()
                direction = torch.randn(taken.shape, generator=torch.Generator().manual_seed(0))
                found = {name: values[0] for name, values in recorder.of(taken, direction.to(taken)).items()}
        finally:
            for handle in handles:
                handle.remove()
            for weight, asked, gradient in before:
                weight.requires_grad_(asked).grad = gradient
        noise = 10 * torch.finfo(image.dtype).eps
        nothing = noise**2 * max((float(squares.max()) for squares in expected.values()), default=0.0)

        def is_own(name: str) -> bool:
            if name not in weights:  # computed anew in each pass: it is the gradient by the weight as it is used
                return True
            squares = expected.get(weights[name], torch.zeros_like(found[name]))
            return bool((found[name] - squares).norm() <= max(ALIKE, noise) * squares.norm() + nothing)

        return {name for name in found if is_own(name)}

    def _seen(self, images: Tensor) -> _Seen:
        """What the network makes of images, and what each layer is called on."""
        calls: dict[str, list[_Call]] = {name: [] for name in self.probe.layers}

        def note(name: str, inputs: Tensor) -> None:
            rows = inputs.reshape(len(images), -1) if inputs.numel() % len(images) == 0 else inputs.reshape(1, -1)
            calls[name].append(_Call(inputs.numel(), rows[:, :: max(1, rows.shape[1] // COMPARED)].clone()))

        handles = [
            layer.register_forward_pre_hook(
                lambda _, args, kwargs, name=name: note(name, given_to(args, kwargs)), with_kwargs=True
            )
            for name, layer in self.probe.layers.items()
        ]
        try:
            with torch.no_grad(), self.probe.feature_tap() as features:
                return _Seen(features(images), calls)
        finally:
            for handle in handles:
                handle.remove()

    def _check_entry(self, entry: _Entry, images: Tensor, inputs: Tensor, features: Tensor) -> None:
        """Enter the first batch at the entry, note which layers run, and compare with the whole way."""
        # None of the batch: what precedes the entry must not matter, be the batch a single image.
        entry.image = _another(images[:1].to(self.probe.device, self.probe.dtype))
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


class _Call(NamedTuple):
    """A call of a layer on B images.

    Attributes:
        size: How many numbers went in.
        some: Some of them, `(B, k)`, as if the rows of each image followed each other.
    """

    size: int
    some: Tensor


class _Seen(NamedTuple):
    """One pass of B images: their features `(B, d)`, and each layer's calls."""

    features: Tensor
    calls: dict[str, list[_Call]]


def _another(image: Tensor) -> Tensor:
    """Any image that differs."""
    return 0.5 - image.flip(3)


def _wide(values: Tensor) -> Tensor:
    """At least in float32: squares leave the range of float16."""
    return values.to(torch.promote_types(values.dtype, torch.float32))


def _mixed(one: Tensor, two: Tensor, both: Tensor, *, share: float) -> bool:
    """Whether two images together are something else than each alone, as where tokens come before images and a layer
    sees rows of one between those of the other: by more than rounding, and than a share of what tells them apart.
    """
    expected = torch.cat([one, two])
    apart = (one - two).abs().max()  # a part that is large in every image tells nothing
    noise = max(NOISE, 10 * torch.finfo(expected.dtype).eps) * expected.abs().max()
    return bool((both - expected).abs().max() > torch.maximum(noise, share * apart))


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
        handle = self.module.register_forward_pre_hook(
            lambda _, args, kwargs: recorded.append(given_to(args, kwargs).detach()), with_kwargs=True
        )
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

        def give(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
            if args:
                return (given[0], *args[1:]), kwargs
            return args, kwargs | {next(iter(kwargs)): given[0]}

        handle = self.module.register_forward_pre_hook(give, with_kwargs=True)

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
