"""The bundled probe network, registered with timm on import."""

from task2vec.backbones.resnet import DEFAULT_PROBE, task2vec_resnet_32

__all__ = ["DEFAULT_PROBE", "task2vec_resnet_32"]
