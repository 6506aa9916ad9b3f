"""Visual prompting in pixel space: a learned frame on the image (Bahng et al. 2022, https://arxiv.org/abs/2203.17274).

    x' = x + theta, theta zero inside the frame

With `resized`, the image is shrunk into the frame instead of being covered by it (Elsayed et al. 2018,
https://arxiv.org/abs/1806.11146). The frame starts at zero: training starts from the backbone itself, or, with
`resized`, from a frame of the mean colour after the usual normalisation.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from adapters.errors import ConfigError
from adapters.methods.registry import register_method
from adapters.methods.site_adapter import SiteAdapter
from adapters.settings import Settings, number, rate, switch
from adapters.sites import Site


@dataclasses.dataclass(frozen=True, kw_only=True)
class PixelPromptSettings(Settings):
    """Settings of pixel prompt."""

    frame: float = number(30 / 224, "Width of the frame, as a share of the image's side.", above=0, below=0.5)
    resized: bool = switch(False, "Whether the image is shrunk into the frame instead of being covered by it.")
    learning_rate: float = rate(3e-2, tried=(0.01, 0.03))


@register_method(
    "pixel_prompt",
    "pixel prompt",
    "https://arxiv.org/abs/2203.17274",
    settings=PixelPromptSettings,
    needs="a first convolution, and a size of image that it was made for",
    trains="a frame of the image",
    equal="the authors' additive frame of 30 of 224 pixels on the whole image",
    different=(
        "the frame starts at zero instead of at random numbers, so that training starts from the backbone itself; "
        "`resized=True` shrinks the image into the frame instead (Elsayed et al. 2018)"
    ),
    cannot_merge="it changes the image, not the weights",
)
def pixel_prompt(sites: list[Site], settings: PixelPromptSettings) -> Iterator[tuple[Site, Frame]]:
    """Where the images come in."""
    for site in sites:
        if site.kind == "input" and site.image_size is not None:
            yield site, Frame(site, settings.frame, resized=bool(settings.resized))


class Frame(SiteAdapter):
    """Rows at the top and the bottom and columns at the sides of the image.

    Args:
        site: The input.
        share: Width of the frame as a share of the image's shorter side.
        resized: Whether the image is shrunk into the frame.
    """

    def __init__(self, site: Site, share: float, *, resized: bool) -> None:
        super().__init__()
        assert site.image_size is not None
        self.resized = resized
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
        """Images `(B, C, H, W)` with the frame added, or resized into it.

        Raises:
            ConfigError: they are not of the size that the frame was made for.
        """
        if inputs.shape[1:] != self.image_size:
            made, given = (" x ".join(map(str, size)) for size in (self.image_size, inputs.shape[1:]))
            raise ConfigError(f"the frame was made for images of {made}, not {given}; resize them first")
        size = inputs.shape[-2] - 2 * self.thickness, inputs.shape[-1] - 2 * self.thickness
        if self.resized:
            inside = F.interpolate(inputs, size, mode="bilinear", antialias=True)
        else:
            inside = inputs.new_zeros(1, inputs.shape[1], *size)
        above, below, left, right = (
            part.to(inside.dtype).expand(len(inside), -1, -1, -1) for part in (*self.rows, *self.columns)
        )
        framed = torch.cat([above, torch.cat([left, inside, right], dim=3), below], dim=2)
        return framed if self.resized else inputs + framed
