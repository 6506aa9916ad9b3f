"""The bundled backbone: a small Vision Transformer for 32 px images, registered with timm.

It is timm's own `VisionTransformer`: 8 x 8 patch tokens from a two-step convolutional stem, average pooling, no class
token. The packaged weights come from `examples/train_backbones.py`; the model card beside them says how they were
made and how well they do.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from timm.layers import HybridEmbed
from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from timm.models.vision_transformer import VisionTransformer, checkpoint_filter_fn
from timm.models.vision_transformer_hybrid import ConvStem
from torch import nn

DEFAULT_BACKBONE = "task2vec_vit_patch4_32"

WEIGHTS = Path(__file__).parent / "task2vec_vit_patch4_32.safetensors"

default_cfgs = generate_default_cfgs(
    {
        "task2vec_vit_patch4_32.tin_base": {
            "file": str(WEIGHTS),
            "num_classes": 113,
            "input_size": (3, 32, 32),
            "fixed_input_size": True,
            "crop_pct": 1.0,
            "interpolation": "bilinear",
            "mean": (0.5, 0.5, 0.5),
            "std": (0.25, 0.25, 0.25),
            "first_conv": "patch_embed.backbone.0.conv",
            "classifier": "head",
        }
    }
)


class ConvPatchEmbed(HybridEmbed):
    """Patches of 4 x 4 pixels from two stride-2 convolutions, which a small ViT learns faster than one 4 x 4 step
    (Xiao et al. 2021, "Early Convolutions Help Transformers See Better", https://arxiv.org/abs/2106.14881).
    """

    def __init__(self, in_chans: int = 3, patch_size: int = 4, **kwargs: Any) -> None:
        if patch_size != 4:
            raise ValueError(f"the convolutional stem makes patches of 4 pixels, not {patch_size}; leave patch_size=4")
        stem = ConvStem(in_chans, depth=3, channels=(32, 64, 128), stride=(2, 2, 1), act_layer=nn.GELU)
        super().__init__(stem, in_chans=in_chans, patch_size=1, **kwargs)


@register_model
def task2vec_vit_patch4_32(pretrained: bool = False, **kwargs: Any) -> VisionTransformer:
    """Vision Transformer of 6 blocks, width 128 and 4 heads, with 1.3M parameters, for images of 32 px."""
    architecture = {
        "img_size": 32,
        "patch_size": 4,
        "embed_dim": 128,
        "depth": 6,
        "num_heads": 4,
        "class_token": False,
        "global_pool": "avg",
        "embed_layer": ConvPatchEmbed,
    }
    model: VisionTransformer = build_model_with_cfg(
        VisionTransformer,
        "task2vec_vit_patch4_32",
        pretrained,
        pretrained_filter_fn=checkpoint_filter_fn,  # brings the position embedding to the size of the images
        **architecture | kwargs,
    )
    return model
