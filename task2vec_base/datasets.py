"""What both packages know of other libraries' datasets."""

from __future__ import annotations

from typing import Any

from torchvision.datasets import VisionDataset
from torchvision.datasets.vision import StandardTransform

IMAGE_COLUMNS = ("image", "img", "pixel_values")
LABEL_COLUMNS = ("label", "labels", "fine_label", "target", "class")


def is_read_by_torchvision(dataset: Any) -> bool:
    """Whether it is one of torchvision's that torchvision's own code reads, so that its items have the labels that it
    holds, after its `target_transform`; whatever it does with the images alone.
    """
    return (
        isinstance(dataset, VisionDataset)
        and type(dataset).__getitem__.__module__.startswith("torchvision.")
        and (dataset.transforms is None or isinstance(dataset.transforms, StandardTransform))
    )
