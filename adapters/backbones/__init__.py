"""The bundled backbone to tune, registered with timm on import."""

from adapters.backbones.vit import DEFAULT_BACKBONE, task2vec_vit_patch4_32

__all__ = ["DEFAULT_BACKBONE", "task2vec_vit_patch4_32"]
