"""A probe: a frozen network, its preprocessing, and which of its modules is the classifier."""

from __future__ import annotations

import copy
import hashlib
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from timm.data import create_transform, resolve_data_config
from torch import Tensor, nn
from torch.nn.modules.linear import NonDynamicallyQuantizableLinear

from task2vec.backbones import DEFAULT_PROBE
from task2vec.compute import same_device
from task2vec.errors import ProbeError, WeightsError
from task2vec.weights import timm_model

Transform = Callable[[Image.Image], Tensor]

# What of timm's data config goes into the fingerprint: named here, so that a new version's new settings leave it alone.
DATA_SETTINGS = ("crop_mode", "crop_pct", "input_size", "interpolation", "mean", "std")

MEASURED = (nn.Linear, nn.Conv2d)  # the layers whose weights have a per-filter Fisher
# torch.nn.MultiheadAttention uses this layer's weight without calling the layer, so that it cannot be measured.
NEVER_CALLED = NonDynamicallyQuantizableLinear


class Probe:
    """A frozen pretrained network that turns images into features, and a dataset into an embedding.

    The network is put into evaluation mode and its parameters stop asking for gradients: batch norm uses its stored
    statistics and dropout is off, so that samples do not mix.

    Args:
        module: Any network. Its classifier's input is the feature vector `(N, d)`.
        classifier: The classifier's name among `module.named_modules()`, such as `"fc"`.
        transform: RGB image to tensor `(C, H, W)`, the preprocessing that the network was trained with.
        name: What to call the probe; the class's name if not given.
        preprocessing: What the transform does, in words that stay the same between versions of the libraries it is
            made of. It goes into the fingerprint; the transform's own description if not given.

    Raises:
        ProbeError: there is no such classifier, or nothing before it can be measured.
    """

    def __init__(
        self,
        module: nn.Module,
        classifier: str,
        transform: Transform,
        *,
        name: str | None = None,
        preprocessing: str | None = None,
    ) -> None:
        modules = dict(module.named_modules())
        if classifier not in modules or not classifier:
            near = ", ".join([n for n, m in modules.items() if isinstance(m, nn.Linear)][-3:]) or "none"
            raise ProbeError(f"the network has no module {classifier!r} to be its classifier; its last linear: {near}")
        self.module = module.eval().requires_grad_(False)
        self.classifier = classifier
        self.transform = transform
        self.name = name or type(module).__name__
        self.preprocessing = preprocessing or re.sub(r" at 0x[0-9a-f]+", "", repr(transform))
        inside_classifier = {id(m) for m in modules[classifier].modules()}
        self.layers: dict[str, nn.Linear | nn.Conv2d] = {
            n: m
            for n, m in modules.items()
            if isinstance(m, MEASURED) and not isinstance(m, NEVER_CALLED) and id(m) not in inside_classifier
        }
        if not self.layers:
            raise ProbeError(f"{self.name} has no convolution or linear layer before its classifier {classifier!r}")
        self.unmeasured = _unmeasured(modules, set(map(id, self.layers.values())) | inside_classifier)
        self._fingerprint: str | None = None

    def __repr__(self) -> str:
        return f"Probe({self.name}, classifier={self.classifier!r}, {len(self.layers)} layers, D={self.dimension})"

    @property
    def dimension(self) -> int:
        """The length D of an embedding: filters of all measured layers together."""
        return sum(layer.weight.shape[0] for layer in self.layers.values())

    @property
    def device(self) -> torch.device:
        """Where the network lies."""
        return next(self.module.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        """The network's floating-point type."""
        return next(self.module.parameters()).dtype

    @property
    def fingerprint(self) -> str:
        """Hash of architecture, weights and preprocessing: equal for two probes whose embeddings are comparable.

        The classifier's own weights do not count, since every task fits its own.
        """
        if self._fingerprint is None:
            digest = hashlib.sha256(f"{type(self.module).__name__};{self.classifier};{self.preprocessing};".encode())
            for name, layer in self.layers.items():
                geometry = [getattr(layer, a, None) for a in ("stride", "padding", "dilation", "groups")]
                digest.update(f"{name}:{geometry};".encode())
            for name, tensor in self.module.state_dict().items():
                if not _inside(name, self.classifier):
                    digest.update(f"{name}:{tuple(tensor.shape)};".encode())
                    digest.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
            self._fingerprint = digest.hexdigest()[:32]
        return self._fingerprint

    def to(self, device: str | torch.device | None = None, dtype: torch.dtype | None = None) -> Probe:
        """This probe on another device or of another type: a copy of the same fingerprint, where that is a change."""
        device = same_device(self.device if device is None else device)
        dtype = dtype or self.dtype
        if (device, dtype) == (same_device(self.device), self.dtype):
            return self
        module = copy.deepcopy(self.module).to(device, dtype)
        moved = Probe(module, self.classifier, self.transform, name=self.name, preprocessing=self.preprocessing)
        moved._fingerprint = self.fingerprint
        return moved

    @contextmanager
    def feature_tap(self) -> Iterator[Callable[[Tensor], Tensor]]:
        """Inside the context, a function from inputs `(N, C, H, W)` to features `(N, d)`: the classifier's input."""
        taken: list[Tensor] = []
        module = self.module.get_submodule(self.classifier)
        handle = module.register_forward_pre_hook(
            lambda _, args, kwargs: taken.append(given_to(args, kwargs)), with_kwargs=True
        )

        def features(inputs: Tensor) -> Tensor:
            taken.clear()
            self.module(inputs)
            if taken and taken[-1].ndim == 4 and taken[-1].shape[2:] == (1, 1):  # before a convolution of 1 x 1
                return taken[-1].flatten(1)
            if not taken or taken[-1].ndim != 2:
                found = "nothing" if not taken else f"shape {tuple(taken[-1].shape)}"
                raise ProbeError(f"the classifier {self.classifier!r} of {self.name} received {found}, not (N, d)")
            return taken[-1]

        try:
            yield features
        finally:
            handle.remove()

    def features(self, inputs: Tensor) -> Tensor:
        """Features `(N, d)` of inputs `(N, C, H, W)`, without gradients, on the probe's device."""
        with torch.no_grad(), self.feature_tap() as features:
            return features(inputs.to(self.device, self.dtype))


def load_probe(
    name: str = DEFAULT_PROBE, *, checkpoint: str | Path | None = None, device: str | torch.device = "cpu"
) -> Probe:
    """A probe from the bundled network or any timm model.

    Args:
        name: A timm model name. The default is bundled with the package and needs no network.
        checkpoint: Local weights (safetensors, or a tensor-only PyTorch file) instead of timm's pretrained ones.
        device: Where to put it.

    Raises:
        ProbeError: timm does not know the name, or the weights cannot be had or do not fit.
    """
    try:
        model = timm_model(name, checkpoint)
    except WeightsError as error:
        raise ProbeError(str(error)) from error
    config: Any = model.pretrained_cfg
    classifier: str | tuple[str, ...] = config["classifier"]
    data = resolve_data_config({}, model=model)
    return Probe(
        model.to(device),
        classifier if isinstance(classifier, str) else classifier[0],
        create_transform(**data, is_training=False),
        name=name,
        preprocessing="; ".join(f"{name} {data[name]}" for name in DATA_SETTINGS),
    )


def given_to(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """What a module is called on, be it by place or by keyword."""
    return (*args, *kwargs.values())[0]


def _inside(name: str, parent: str) -> bool:
    return name == parent or name.startswith(f"{parent}.")


def _unmeasured(modules: dict[str, nn.Module], known: set[int]) -> tuple[str, ...]:
    """Names of weights of two or more dimensions that belong to no measured layer and no classifier."""
    return tuple(
        f"{name}.{parameter}" if name else parameter
        for name, module in modules.items()
        if id(module) not in known
        for parameter, values in module.named_parameters(recurse=False)
        if values.ndim >= 2 and values.shape[0] > 1
    )
