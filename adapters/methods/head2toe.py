"""Head2Toe: a classifier that reads blocks on the way, too (Evci et al. 2022, https://arxiv.org/abs/2201.03529).

    logits = W [h, n(pool(x_1)), ..., n(pool(x_K))] + b

h is what the usual classifier gets and x_k what the k-th of some blocks gives; pool averages it over cells of the
image, and n makes it mean 0 and variance 1 over its numbers. Nothing in the backbone changes, so that one pass over the
images suffices, whatever the number of epochs.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from adapters.errors import IncompatibleError
from adapters.methods.registry import register_method
from adapters.methods.site_adapter import SiteAdapter
from adapters.pooling import ends_of_parts, pooled
from adapters.settings import InBlocks, decay, passes, rate, size
from adapters.sites import Site

DEPTHS = 3  # blocks that are read if none are named: the last of each third


@dataclasses.dataclass(frozen=True, kw_only=True)
class Head2ToeSettings(InBlocks):
    """Settings of Head2Toe."""

    cells: int = size(3, "Parts that each side of the image is divided into; features are averaged over each.")
    learning_rate: float = rate(5e-4, tried=(0.0005,))
    weight_decay: float = decay(10.0)
    epochs: int = passes(50)


class Shelf:
    """Where what was read lies until the classifier takes it: no part of the network, which exporters would follow."""

    def __init__(self) -> None:
        self.read: Tensor | None = None


class Reading(SiteAdapter):
    """Keeps what a block gives, pooled, for the classifier, and changes nothing.

    Args:
        site: The block.
        cells: Parts that each side of the image is divided into.
    """

    def __init__(self, site: Site, cells: int) -> None:
        super().__init__()
        self.site, self.width, self.cells = site.name, site.output_width, cells
        self.grid = None if site.tokens is None else site.tokens.grid
        self.shelf = Shelf()

    @property
    def size(self) -> int:
        """How many numbers it keeps."""
        return self.width * self.cells**2

    def forward(self, inputs: Tensor, output: Tensor) -> Tensor:
        """The output as it is.

        Raises:
            TypeError: it is no single tensor.
        """
        if not isinstance(output, Tensor):
            raise TypeError(f"{self.site} gives a {type(output).__name__} instead of one tensor")
        self.shelf.read = pooled(output, self.width, self.cells, self.grid)
        return output


class ReadingClassifier(nn.Linear):
    """A linear classifier of the usual features and of readings.

    Args:
        own: The usual one, which it starts as.
        readings: What it reads beside the features.
    """

    def __init__(self, own: nn.Linear, readings: Sequence[Reading]) -> None:
        total = own.in_features + sum(reading.size for reading in readings)
        super().__init__(total, own.out_features, device=own.weight.device, dtype=own.weight.dtype)
        self.readings = list(readings)  # in a list, they do not become a part of it
        with torch.no_grad():
            self.weight.zero_()[:, : own.in_features].copy_(own.weight)
            self.bias.zero_()
            if own.bias is not None:
                self.bias.copy_(own.bias)

    def inputs(self, features: Tensor) -> Tensor:
        """Features and readings `(N, in_features)`; a block may have seen several rows of each image."""
        columns = [features]
        for reading in self.readings:
            assert reading.shelf.read is not None
            read = reading.shelf.read.reshape(features.shape[0], -1, reading.size).mean(dim=1)
            columns.append(F.layer_norm(read, (reading.size,)).to(features.dtype))
        return torch.cat(columns, dim=1)

    def forward(self, features: Tensor) -> Tensor:
        """Logits `(N, num_classes)`."""
        return super().forward(self.inputs(features))


def read_by(head: nn.Module, readings: Sequence[Reading]) -> nn.Module:
    """A classifier that starts as `head` and takes the readings in.

    Raises:
        IncompatibleError: it is not linear.
    """
    if not isinstance(head, nn.Linear):
        raise IncompatibleError(f"head2toe needs a linear classifier, not {type(head).__name__}; take another method")
    return ReadingClassifier(head, readings)


@register_method(
    "head2toe",
    "Head2Toe",
    "https://arxiv.org/abs/2201.03529",
    settings=Head2ToeSettings,
    needs="blocks",
    trains="a linear classifier of features from several depths and parts of the image",
    equal="the paper's linear classifier of pooled and normalised features from all depths",
    different=(
        "the last block of each third is read instead of every layer, so that no features need to be selected; its"
        " features count for the classifier, which is larger than the usual one"
    ),
    cannot_merge="its classifier reads blocks on the way, which a plain model's does not",
    classifier=read_by,
    only_classifier=True,
)
def head2toe(sites: list[Site], settings: Head2ToeSettings) -> Iterator[tuple[Site, Reading]]:
    """At the last block of each third, or at the blocks that are named."""
    blocks = [site for site in sites if site.kind == "block"]
    chosen = range(len(blocks)) if settings.blocks is not None else ends_of_parts(len(blocks), DEPTHS)
    for k in dict.fromkeys(chosen):
        yield blocks[k], Reading(blocks[k], settings.cells)
