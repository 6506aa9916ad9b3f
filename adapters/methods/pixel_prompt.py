"""Visual prompting in pixel space: a learned frame around the resized image (Bahng et al. 2022,
https://arxiv.org/abs/2203.17274; with the image resized into the frame: Elsayed et al. 2018,
https://arxiv.org/abs/1806.11146).

    x' = resize(x) inside the frame, theta in it

The frame starts at zero, which is the mean colour after the usual normalisation.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from adapters.errors import ConfigError
from adapters.methods.registry import register_method
from adapters.methods.site_adapter import SiteAdapter

if TYPE_CHECKING:
    from adapters.config import AdapterConfig
    from adapters.sites import Site


@register_method(
    "pixel_prompt",
    "pixel prompt",
    "https://arxiv.org/abs/2203.17274",
    needs="a first convolution, and a size of image that it was made for",
    cannot_merge="it changes the image, not the weights",
    frame=0.04,
    learning_rate=1e-2,
    epochs=20,
    places=(),
)
def pixel_prompt(sites: list[Site], config: AdapterConfig) -> Iterator[tuple[Site, Frame]]:
    """Where the images come in."""
    assert config.frame is not None
    for site in sites:
        if site.kind == "input" and site.image_size is not None:
            yield site, Frame(site, config.frame)


class Frame(SiteAdapter):
    """Rows above and below and columns beside the image."""

    def __init__(self, site: Site, share: float) -> None:
        super().__init__()
        assert site.image_size is not None
        self.image_size = site.image_size
        channels, height, width = site.image_size
        self.thickness = round(share * min(height, width))
        if self.thickness < 1:
            raise ConfigError(f"frame={share} of an image of {height} x {width} is less than a pixel; take a wider one")
        inner = height - 2 * self.thickness
        new = site.parameter.new_zeros
        self.rows = nn.Parameter(new(2, channels, self.thickness, width))
        self.columns = nn.Parameter(new(2, channels, inner, self.thickness))

    def before(self, inputs: Tensor) -> Tensor:
        """Images `(B, C, H, W)`, resized into the frame.

        Raises:
            ConfigError: they are not of the size that the frame was made for.
        """
        if inputs.shape[1:] != self.image_size:
            made, given = (" x ".join(map(str, size)) for size in (self.image_size, inputs.shape[1:]))
            raise ConfigError(f"the frame was made for images of {made}, not {given}; resize them first")
        size = inputs.shape[-2] - 2 * self.thickness, inputs.shape[-1] - 2 * self.thickness
        small = F.interpolate(inputs, size, mode="bilinear", antialias=True)
        above, below, left, right = (
            part.to(small.dtype).expand(len(small), -1, -1, -1) for part in (*self.rows, *self.columns)
        )
        return torch.cat([above, torch.cat([left, small, right], dim=3), below], dim=2)
