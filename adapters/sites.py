"""Where adapters can attach: one walk over a backbone names its sites, whatever the architecture."""

from __future__ import annotations

import dataclasses

import timm.layers
from torch import Tensor, nn

NORMS = (nn.LayerNorm, nn.BatchNorm1d, nn.BatchNorm2d, nn.GroupNorm)
NORM_ACTS = (timm.layers.BatchNormAct2d, timm.layers.GroupNormAct, timm.layers.LayerNormAct)
MLPS = (timm.layers.Mlp, timm.layers.GluMlp, timm.layers.SwiGLU)


@dataclasses.dataclass(frozen=True)
class Site:
    """One module of a backbone that an adapter can attach to.

    Attributes:
        name: Its name among `backbone.named_modules()`.
        module: The module itself.
        kind: `linear`, `conv`, `norm`, or `mlp` (a whole MLP of a transformer block).
        role: The last part of the name, such as `qkv` or `fc1`, which timm uses consistently.
        block: The number of the block it lies in, counted from the input; None outside the blocks.
        output: The name of the module whose output is the site's. It is the site itself, but for a normalisation with
            a built-in activation: there, what comes before the activation.
    """

    name: str
    module: nn.Module
    kind: str
    role: str
    block: int | None
    output: str

    @property
    def channel_axis(self) -> int:
        """The axis of the output that runs over channels, counted from the end."""
        is_channels_last = isinstance(self.module, (nn.Linear, nn.LayerNorm)) and not isinstance(
            self.module, timm.layers.LayerNorm2d
        )
        return -1 if is_channels_last else -3

    @property
    def parameter(self) -> Tensor:
        """One of the site's parameters, for its device and dtype."""
        return next(self.module.parameters())

    @property
    def width(self) -> int:
        """The number of input features of an MLP."""
        first = next(m for m in self.module.modules() if isinstance(m, (nn.Linear, nn.Conv2d)))
        return first.in_features if isinstance(first, nn.Linear) else first.in_channels


def walk(backbone: nn.Module) -> list[Site]:
    """All sites of a backbone outside its classifier, in the order of their definition."""
    classifier = classifier_name(backbone)
    blocks = block_names(backbone)
    sites = []
    for name, module in backbone.named_modules():
        kind = _kind(module)
        if kind is None or _inside(name, classifier) or _inside(name, "adapter"):
            continue
        block = next((i for i, b in enumerate(blocks) if _inside(name, b)), None)
        output = f"{name}.drop" if isinstance(module, NORM_ACTS) else name
        sites.append(Site(name, module, kind, name.rsplit(".", 1)[-1], block, output))
    return sites


def block_names(backbone: nn.Module) -> list[str]:
    """Names of the residual blocks, from input to output: numbered modules of a class that timm calls a block."""
    return [
        name
        for name, module in backbone.named_modules()
        if name.rsplit(".", 1)[-1].isdigit() and any(part in type(module).__name__ for part in _BLOCKS)
    ]


_BLOCKS = ("Block", "Bottleneck", "InvertedResidual", "DepthwiseSeparable")


def classifier_name(backbone: nn.Module) -> str:
    """The name of the module that timm takes for the classifier, the last linear layer where timm knows none."""
    if hasattr(backbone, "get_classifier"):
        found = backbone.get_classifier()  # type: ignore[operator]
        head = found[0] if isinstance(found, tuple) else found
        names = [name for name, module in backbone.named_modules() if module is head]
        if names:
            return names[0]
    return [name for name, module in backbone.named_modules() if isinstance(module, nn.Linear)][-1]


def _kind(module: nn.Module) -> str | None:
    if isinstance(module, nn.Linear):
        return "linear"
    if isinstance(module, nn.Conv2d):
        return "conv"
    if isinstance(module, NORMS):
        return "norm"
    return "mlp" if isinstance(module, MLPS) else None


def _inside(name: str, parent: str) -> bool:
    return name == parent or name.startswith(f"{parent}.")
