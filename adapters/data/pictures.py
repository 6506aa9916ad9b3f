"""Pictures of any colours for a network that takes red, green and blue."""

from __future__ import annotations

from typing import Any

import numpy as np
from PIL import Image
from torchvision.transforms import Normalize

TRANSPARENT = ("RGBA", "LA", "PA", "RGBa", "La")


def takes_colours(transform: Any) -> bool:
    """Whether a transform, as timm makes them, normalises three channels."""
    steps = getattr(transform, "transforms", ())
    return any(isinstance(step, Normalize) and len(step.mean) == 3 for step in steps)


def to_rgb(image: Image.Image) -> Image.Image:
    """Grey, 16-bit, palette, CMYK and transparent pictures become RGB; transparency is laid on white.

    Raises:
        ValueError: pixels of 32 bits, which have no agreed range.
    """
    if image.mode in ("I", "F"):
        raise ValueError(f"its pixels, of mode {image.mode}, have no agreed range, convert them to 8 bits")
    if image.mode.startswith("I;16"):
        image = Image.fromarray((np.asarray(image, dtype=np.uint16) >> 8).astype(np.uint8))
    if image.mode in TRANSPARENT or "transparency" in image.info:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert("RGB")
