"""The bundled probe: a residual CNN for 32 px images, registered with timm.

It is timm's own `ResNet` class with a stem that keeps the full resolution, so every tool that understands a timm
ResNet understands this model. The packaged weights come from `examples/train_backbones.py`; the model card beside
them says how they were made and how well they do.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from timm.models.resnet import BasicBlock, ResNet
from torch import nn

DEFAULT_PROBE = "task2vec_resnet_32"

WEIGHTS = Path(__file__).parent / "task2vec_resnet_32.safetensors"

default_cfgs = generate_default_cfgs(
    {
        "task2vec_resnet_32.tin_base": {
            "file": str(WEIGHTS),
            "num_classes": 113,
            "input_size": (3, 32, 32),
            "pool_size": (4, 4),
            "crop_pct": 1.0,
            "interpolation": "bilinear",
            "mean": (0.5, 0.5, 0.5),
            "std": (0.25, 0.25, 0.25),
            "first_conv": "conv1.0",
            "classifier": "fc",
        }
    }
)


class ResNet32(ResNet):
    """timm's `ResNet` whose stem does not shrink the image: 32 px in, stages at 32, 16, 8 and 4 px."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.conv1[0].stride = (1, 1)
        self.maxpool = nn.Identity()
        for info, reduction in zip(self.feature_info, (1, 1, 2, 4, 8), strict=True):
            info["reduction"] = reduction


@register_model
def task2vec_resnet_32(pretrained: bool = False, **kwargs: Any) -> ResNet:
    """Residual CNN with 16 weighted layers and 1.26M parameters, for images of 32 px."""
    architecture = {
        "block": BasicBlock,
        "layers": (1, 2, 2, 1),
        "channels": (32, 64, 128, 192),
        "stem_type": "deep",
        "stem_width": 16,
        "avg_down": True,
    }
    model: ResNet = build_model_with_cfg(ResNet32, "task2vec_resnet_32", pretrained, **architecture | kwargs)
    return model
