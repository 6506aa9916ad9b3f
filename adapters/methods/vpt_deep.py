"""VPT-deep: learned tokens in every block (Jia et al. 2022, https://arxiv.org/abs/2203.12119).

    [x_i, _, E_i] = L_i([x_{i-1}, P_{i-1}, E_{i-1}])    (equation 5)

The prompts P go between the prefix tokens x and the image tokens E; what becomes of them in a block is left out.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from adapters.errors import ConfigError
from adapters.methods.registry import register_method
from adapters.methods.site_adapter import SiteAdapter

if TYPE_CHECKING:
    from adapters.config import AdapterConfig
    from adapters.sites import Site, TokenSequence

TOKEN_BUDGET = 2  # at most this many prompts for each image token


@register_method(
    "vpt_deep",
    "VPT-deep",
    "https://arxiv.org/abs/2203.12119",
    needs="blocks that take any number of tokens, as those of a plain Vision Transformer",
    cannot_merge="it adds tokens to the sequence",
    prompts=10,
    blocks=None,
    learning_rate=1e-2,
    weight_decay=1e-4,
    epochs=10,
)
def vpt_deep(sites: list[Site], config: AdapterConfig) -> Iterator[tuple[Site, Prompts]]:
    """Into every block, and out again after it."""
    for site in sites:
        if site.tokens is not None:
            yield site, Prompts(prompt_tokens(site, config), site.tokens)


def prompt_tokens(site: Site, config: AdapterConfig) -> nn.Parameter:
    """Initial prompts, `(1, prompts, width)`, uniform as in the authors' code: as wide as an embedding of patches.

    Raises:
        ConfigError: there are more prompts than the token budget allows.
    """
    assert site.tokens is not None
    assert config.prompts is not None
    budget = TOKEN_BUDGET * site.tokens.num_image_tokens
    if config.prompts > budget:
        raise ConfigError(
            f"prompts={config.prompts} exceeds the token budget {budget}, twice the backbone's "
            f"{site.tokens.num_image_tokens} image tokens; take fewer"
        )
    bound = math.sqrt(6 / (2 * site.tokens.width))
    return nn.Parameter(site.parameter.new_empty(1, config.prompts, site.tokens.width).uniform_(-bound, bound))


class Prompts(SiteAdapter):
    """Tokens that go into a block and are taken out after it."""

    def __init__(self, prompts: nn.Parameter, tokens: TokenSequence) -> None:
        super().__init__()
        self.prompts = prompts
        self.num_prefix_tokens = tokens.num_prefix_tokens

    def before(self, inputs: Tensor) -> Tensor:
        """Put the prompts after the prefix tokens."""
        return insert_prompts(inputs, self.prompts, self.num_prefix_tokens)

    def forward(self, inputs: Tensor, output: Tensor) -> Tensor:
        """Take them out."""
        return remove_prompts(output, self.prompts.shape[1], self.num_prefix_tokens)


def insert_prompts(sequence: Tensor, prompts: Tensor, at: int) -> Tensor:
    """`(B, at + N, width)` with `(1, P, width)` becomes `(B, at + P + N, width)`."""
    many = prompts.to(sequence.dtype).expand(len(sequence), -1, -1)
    return torch.cat([sequence[:, :at], many, sequence[:, at:]], dim=1)


def remove_prompts(sequence: Tensor, count: int, at: int) -> Tensor:
    """`(B, at + count + N, width)` becomes `(B, at + N, width)`."""
    return torch.cat([sequence[:, :at], sequence[:, at + count :]], dim=1)
