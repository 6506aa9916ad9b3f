"""Which methods fit which backbones: the table that the tests check and the documentation shows.

Each family is a timm model, made small where its constructor allows it.
"""

from __future__ import annotations

import functools
from typing import Any

import timm
import torch
from torch import Tensor, nn

import adapters
from adapters import METHODS, AdapterConfig

NUM_CLASSES = 4

SMALL_IMAGES: dict[str, object] = {"pretrained_cfg_overlay": {"input_size": (3, 64, 64)}}

FAMILIES: dict[str, tuple[str, dict[str, object]]] = {
    "ViT": ("vit_tiny_patch16_224", {"img_size": 64, "depth": 3}),
    "DeiT": ("deit_tiny_distilled_patch16_224", {"img_size": 64, "depth": 2}),
    "ViT, registers": ("vit_small_patch14_reg4_dinov2", {"img_size": 56, "depth": 2, "embed_dim": 96, "num_heads": 2}),
    "ViT, average pooling": ("task2vec_vit_patch4_32", {}),
    "Swin": (
        "swin_tiny_patch4_window7_224",
        {"img_size": 56, "embed_dim": 24, "depths": (1, 1), "num_heads": (2, 4)},
    ),
    "BEiT": ("beit_base_patch16_224", {"img_size": 64, "depth": 2, "embed_dim": 96, "num_heads": 2}),
    "EVA-02": ("eva02_tiny_patch14_224", {"img_size": 56, "depth": 2, "embed_dim": 96, "num_heads": 2}),
    "CLIP": ("vit_base_patch32_clip_224", {"img_size": 96, "depth": 2, "embed_dim": 96, "num_heads": 2}),
    "SwinV2": (
        "swinv2_tiny_window8_256",
        {"img_size": 64, "window_size": 4, "embed_dim": 24, "depths": (1, 1), "num_heads": (2, 4)},
    ),
    "MLP-Mixer": ("mixer_s32_224", {"img_size": 64, "mlp_ratio": (0.5, 0.125)}),
    "ConvNeXt": ("convnext_tiny", SMALL_IMAGES | {"depths": (1, 1, 1, 1), "dims": (8, 16, 24, 32)}),
    "ConvNeXt, 1 x 1": ("convnext_atto", SMALL_IMAGES | {"depths": (1, 1, 1, 1), "dims": (8, 16, 24, 32)}),
    "ResNet, basic": ("resnet10t", SMALL_IMAGES | {"channels": (16, 24, 32, 48)}),
    "ResNet, bottleneck": ("resnet26t", SMALL_IMAGES | {"layers": (1, 1, 1, 1), "channels": (16, 24, 32, 48)}),
    "MobileViT": ("mobilevit_xxs", SMALL_IMAGES),
    "MobileNetV3": ("mobilenetv3_small_050", SMALL_IMAGES),
    "EfficientNet": ("test_efficientnet", SMALL_IMAGES),
}

TOKENS = {"vpt_shallow", "vpt_deep"}
MLPS = {"adaptformer", "houlsby", "pfeiffer"}
LINEAR_LAYERS = {"repadapter", "fact"}
CONVOLUTIONS = {"residual_serial", "residual_parallel", "conv_adapter"}

UNFIT: dict[str, set[str]] = {
    "ViT": CONVOLUTIONS,
    "DeiT": CONVOLUTIONS,
    "ViT, registers": CONVOLUTIONS,
    "ViT, average pooling": CONVOLUTIONS,
    "Swin": CONVOLUTIONS | TOKENS,
    "BEiT": CONVOLUTIONS | TOKENS,
    "EVA-02": CONVOLUTIONS | TOKENS,
    "CLIP": CONVOLUTIONS,
    "SwinV2": CONVOLUTIONS | TOKENS,
    "MLP-Mixer": CONVOLUTIONS | TOKENS,
    "MobileViT": TOKENS,
    "ConvNeXt": TOKENS,
    "ConvNeXt, 1 x 1": TOKENS | LINEAR_LAYERS,
    "ResNet, basic": TOKENS | LINEAR_LAYERS | MLPS,
    "ResNet, bottleneck": TOKENS | LINEAR_LAYERS | MLPS,
    "MobileNetV3": TOKENS | LINEAR_LAYERS | MLPS,
    "EfficientNet": TOKENS | LINEAR_LAYERS | MLPS,
}


def fits(family: str, method: str) -> bool:
    """Whether the method can be attached to the family."""
    return method not in UNFIT[family]


def backbone(family: str, dtype: torch.dtype = torch.float32) -> nn.Module:
    """A fresh model, its statistics and scales spread as after training, and in evaluation mode."""
    name, settings = FAMILIES[family]
    model = create(family)
    model.load_state_dict(_weights(name, tuple(settings)))
    return model.to(dtype).eval()


def create(family: str) -> nn.Module:
    """What timm makes of the family's name."""
    name, settings = FAMILIES[family]
    return timm.create_model(name, num_classes=NUM_CLASSES, **settings)


@functools.cache
def _weights(name: str, _: tuple[str, ...]) -> dict[str, Tensor]:
    torch.manual_seed(0)
    model = create(next(family for family, (other, _) in FAMILIES.items() if other == name))
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2)
            module.weight.data.uniform_(0.5, 1)
        if isinstance(module, nn.Linear):
            module.weight.data.normal_(0, module.in_features**-0.5)
        if isinstance(module, nn.LayerNorm):  # some start at zero
            module.weight.data.uniform_(0.5, 1)
    for name, parameter in model.named_parameters():
        if "gamma" in name:  # layer scale starts close to zero
            parameter.data.uniform_(0.5, 1)
    return model.state_dict()


def attach(model: nn.Module, config: AdapterConfig, num_classes: int | None = None, **settings: Any) -> nn.Module:
    """`adapters.attach`, with scores of the weights at random for the methods that choose by them."""
    if METHODS[config.method].choose is not None:
        settings["scores"] = weight_scores(model)
    return adapters.attach(model, config, num_classes, **settings)


def weight_scores(model: nn.Module) -> dict[str, Tensor]:
    """A random score for each weight of each linear layer and convolution."""
    generator = torch.Generator().manual_seed(3)
    return {
        name: torch.rand(module.weight.shape, generator=generator)
        for name, module in model.named_modules()
        if isinstance(module, (nn.Linear, nn.Conv2d)) and not name.startswith("adapters.")
    }


def images(family: str, dtype: torch.dtype = torch.float32, count: int = 2) -> Tensor:
    """Noise of the size that the family takes."""
    name, settings = FAMILIES[family]
    size = settings.get("img_size") or (
        64 if "pretrained_cfg_overlay" in settings else timm.get_pretrained_cfg(name).input_size[-1]
    )
    return torch.randn(count, 3, size, size, generator=torch.Generator().manual_seed(0)).to(dtype)


def table() -> str:
    """The pairs as Markdown: a row for each method, a column for each family."""
    lines = ["| method | merges | " + " | ".join(FAMILIES) + " |", "| --- | :---: |" + " :---: |" * len(FAMILIES)]
    for name, method in sorted(METHODS.items()):
        cells = ["no" if method.cannot_merge else "yes", *("yes" if fits(family, name) else "-" for family in FAMILIES)]
        lines.append(f"| [`{name}`]({method.paper}) | " if method.paper else f"| `{name}` | ")
        lines[-1] += " | ".join(cells) + " |"
    return "\n".join(lines)
