"""Where adapters can attach: one walk over a backbone names its sites, whatever the architecture."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable
from typing import NamedTuple

import timm.layers
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from adapters.errors import ConfigError

NORMS = (nn.LayerNorm, _BatchNorm, nn.GroupNorm, timm.layers.RmsNorm, timm.layers.RmsNorm2d)
CHANNELS_LAST = (nn.Linear, nn.LayerNorm, nn.BatchNorm1d, timm.layers.RmsNorm)
CHANNELS_FIRST = (timm.layers.LayerNorm2d, timm.layers.LayerNormAct2d)  # though they are of a kind of these
MLPS = (
    timm.layers.Mlp,
    timm.layers.GluMlp,
    timm.layers.SwiGLU,
    timm.layers.ConvMlp,
    timm.layers.GatedMlp,
    timm.layers.GlobalResponseNormMlp,
)

BLOCKS = ("Block", "Bottleneck", "InvertedResidual", "DepthwiseSeparable")  # parts of timm's names for blocks


NUMBERED = re.compile(r"b?\d+")  # as in `blocks.3`, or `s1.b2` of RegNet


class TokenSequence(NamedTuple):
    """What passes between the blocks of a backbone whose blocks take any number of tokens.

    Attributes:
        num_prefix_tokens: Class, distillation and register tokens, which come first.
        num_image_tokens: Tokens that stand for patches of the image.
        width: Features of a token.
        patch_values: Numbers of the image that a token stands for: pixels of a patch times channels.
        grid: Height and width of the patches' grid.
    """

    num_prefix_tokens: int
    num_image_tokens: int
    width: int
    patch_values: int
    grid: tuple[int, int]


@dataclasses.dataclass(frozen=True)
class Site:
    """One place in a backbone that an adapter can attach to.

    Attributes:
        name: The module's name among `backbone.named_modules()`; empty for the backbone itself.
        module: The module itself.
        kind: `linear`, `conv`, `norm`, `attention`, `mlp` (a whole one of a block), `block` (a whole block), `input`
            (the first convolution, as the place where images come in) or `weights` (anything else that directly
            owns parameters, such as position embeddings).
        block: The number of the block it lies in, counted from the input; None outside the blocks.
        tokens: For a block of a token sequence, what passes through it.
        image_size: For the input, `(channels, height, width)` of the images, if the backbone says so.
    """

    name: str
    module: nn.Module
    kind: str
    block: int | None = None
    tokens: TokenSequence | None = None
    image_size: tuple[int, int, int] | None = None

    def is_called(self, target: str) -> bool:
        """Whether `target` is its whole name, the end of it, or its last part."""
        return _ends_with(self.name, target)

    @property
    def role(self) -> str:
        """The last part of the name, such as `qkv` or `fc1`, which timm uses consistently."""
        return self.name.rsplit(".", 1)[-1]

    @property
    def output(self) -> str:
        """The name of the module whose output is the site's.

        It is the site itself, but for a normalisation with a built-in activation: there, what comes before the
        activation.
        """
        has_activation = self.kind == "norm" and hasattr(self.module, "act")
        return f"{self.name}.drop" if has_activation and hasattr(self.module, "drop") else self.name

    @property
    def channel_axis(self) -> int:
        """The axis of inputs and output that runs over channels, counted from the end."""
        layer = self.layers[0] if self.kind in ("attention", "mlp") else self.module
        if isinstance(layer, nn.LayerNorm) and len(layer.normalized_shape) > 1:
            return -len(layer.normalized_shape)
        return -1 if isinstance(layer, CHANNELS_LAST) and not isinstance(layer, CHANNELS_FIRST) else -3

    @property
    def parameter(self) -> Tensor:
        """One of the site's parameters, for its device and dtype."""
        return next(self.module.parameters())

    @property
    def width(self) -> int:
        """The number of input features."""
        layer = self._first_and_last[0]
        return layer.in_features if isinstance(layer, nn.Linear) else layer.in_channels

    @property
    def output_width(self) -> int:
        """The number of output features."""
        layer = self._first_and_last[1]
        return layer.out_features if isinstance(layer, nn.Linear) else layer.out_channels

    @property
    def _first_and_last(self) -> tuple[nn.Linear | nn.Conv2d, nn.Linear | nn.Conv2d]:
        """The layers that take its input and give its output; an attention may have others defined between them."""
        found = [*self.layers[:1], *self.layers[-1:]]
        if self.kind == "attention":
            found = [self.module.qkv, self.module.proj]  # type: ignore[list-item]
        if not found or not all(isinstance(layer, (nn.Linear, nn.Conv2d)) for layer in found):
            raise ConfigError(f"{self.name} has no plain linear layer or convolution to adapt; choose another target")
        return found[0], found[1]

    @property
    def layers(self) -> list[nn.Linear | nn.Conv2d]:
        """The linear layers and convolutions in it, or the one that it is."""
        return [m for m in self.module.modules() if isinstance(m, (nn.Linear, nn.Conv2d))]


def walk(backbone: nn.Module) -> list[Site]:
    """All sites of a backbone outside its classifier, in the order of their definition."""
    outside = (*classifier_names(backbone), "adapters")
    blocks = block_names(backbone)
    tokens = token_sequence(backbone)
    sites: list[Site] = []
    for name, module in backbone.named_modules():
        if any(is_inside(name, other) for other in outside):
            continue
        block = next((i for i, b in enumerate(blocks) if is_inside(name, b)), None)
        is_first_conv = isinstance(module, nn.Conv2d) and not any(site.kind == "conv" for site in sites)
        if is_first_conv:
            sites.append(Site(name, module, "input", block, image_size=image_size(backbone)))
        kind = "block" if name in blocks else _kind(module, in_block=block is not None)
        if kind == "mlp" and any(site.kind == "attention" and is_inside(name, site.name) for site in sites):
            kind = None  # it makes position biases, as in Swin V2
        if kind is not None:
            sites.append(Site(name, module, kind, block, tokens=tokens if kind == "block" else None))
    return sites


def targeted(sites: list[Site], backbone: nn.Module, targets: Iterable[str]) -> list[Site]:
    """The sites that are named: by their whole name, the end of it (`attn.proj`) or its last part (`fc1`).

    A named module that the walk knows nothing about is taken for an MLP: something that maps features to features. The
    input, which is a second site of the first convolution, goes by no name.

    Raises:
        ConfigError: a name fits no module.
    """
    found = []
    for target in targets:
        named = [site for site in sites if site.is_called(target) and site.kind != "input"] or [
            Site(name, module, "mlp")
            for name, module in backbone.named_modules()
            if _ends_with(name, target) and next(module.parameters(), None) is not None
        ]
        if not named:
            raise ConfigError(
                f"targets={target!r} fits no module of {type(backbone).__name__}; print(model) lists them"
            )
        found += named
    return [site for i, site in enumerate(found) if site not in found[:i]]


def block_names(backbone: nn.Module) -> list[str]:
    """Names of the residual blocks, from input to output: numbered modules of a class that timm calls a block.

    A block within a block, as MobileViT's transformers are, is a part of that one and none of its own.
    """
    found: list[str] = []
    for name, module in backbone.named_modules():
        is_block = NUMBERED.fullmatch(name.rsplit(".", 1)[-1]) and any(b in type(module).__name__ for b in BLOCKS)
        if is_block and not (found and is_inside(name, found[-1])):
            found.append(name)
    return found


def token_sequence(backbone: nn.Module) -> TokenSequence | None:
    """What passes between the blocks, if these take any number of tokens: in plain Vision Transformers."""
    if not isinstance(backbone, VisionTransformer):
        return None
    channels, height, width = image_size(backbone) or (3, *backbone.patch_embed.img_size)
    num_patches = backbone.patch_embed.num_patches
    return TokenSequence(
        backbone.num_prefix_tokens,
        num_patches,
        backbone.embed_dim,
        round(channels * height * width / num_patches),
        backbone.patch_embed.grid_size,
    )


def image_size(backbone: nn.Module) -> tuple[int, int, int] | None:
    """`(channels, height, width)` of the images that the backbone was made for, if it says so."""
    config = getattr(backbone, "pretrained_cfg", None) or {}
    if "input_size" not in config:
        return None
    channels, height, width = config["input_size"]
    first = next((module for module in backbone.modules() if isinstance(module, nn.Conv2d)), None)
    channels = channels if first is None else first.in_channels  # a model may be made for grey images, say
    # The size that a model was made for is an attribute of the model itself or of what embeds its patches, by family.
    own = (getattr(module, "img_size", None) for module in backbone.modules())
    return channels, *timm.layers.to_2tuple(next((size for size in own if size), (height, width)))


def classifier_names(backbone: nn.Module) -> tuple[str, ...]:
    """The names of the modules that timm takes for the classifier (two in a distilled model), otherwise of the last
    linear layer.
    """
    if hasattr(backbone, "get_classifier"):
        found = backbone.get_classifier()  # type: ignore[operator]
        heads = found if isinstance(found, tuple) else (found,)
        if isinstance(getattr(backbone, "aux_head", None), nn.Linear):  # of VOLO, which adds what it says of each token
            heads = (*heads, backbone.aux_head)
        names = tuple(name for head in heads for name, module in backbone.named_modules() if module is head)
        if names:
            return names
    linear = [
        name
        for name, module in backbone.named_modules()
        if isinstance(module, nn.Linear) and not is_inside(name, "adapters")
    ]
    if not linear:
        raise ConfigError(f"{type(backbone).__name__} has no linear layer for a classifier; add one at its end")
    return (linear[-1],)


def _kind(module: nn.Module, *, in_block: bool) -> str | None:
    if isinstance(module, (nn.Linear, nn.Conv2d)) and "weight" not in module._parameters:
        # Its weight is made of others, as weight_norm does: an adapter would change what is made anew in each pass.
        return "weights" if module._parameters else None
    if isinstance(module, nn.Linear):
        return "linear"
    if isinstance(module, nn.Conv2d):
        return "conv"
    if isinstance(module, NORMS):
        return "norm"
    layers = [getattr(module, name, None) for name in ("fc1", "fc2")]
    # Outside the blocks a classifier may look like an MLP.
    if isinstance(module, MLPS) or (in_block and all(isinstance(layer, nn.Linear) for layer in layers)):
        return "mlp"
    if hasattr(module, "qkv") and hasattr(module, "proj"):
        return "attention"
    return "weights" if module._parameters else None


def is_inside(name: str, parent: str) -> bool:
    """Whether a module of that name is the parent or a part of it."""
    return name == parent or name.startswith(f"{parent}.")


def _ends_with(name: str, target: str) -> bool:
    return name == target or name.endswith(f".{target}")
