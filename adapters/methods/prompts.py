"""What the two kinds of visual prompt tuning share: tokens that enter a sequence and leave it.

A sequence is `(B, N, width)`: prefix tokens, prompts, image tokens.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from adapters.errors import ConfigError
from adapters.methods.site_adapter import SiteAdapter
from adapters.sites import Site, TokenSequence

TOKEN_BUDGET = 2  # at most this many prompts for each image token


def prompt_tokens(site: Site, count: int) -> nn.Parameter:
    """Initial prompts, `(1, count, width)`, uniform in +-sqrt(6 / (3 p^2 + width)) for patches of p x p pixels in
    three colours (Jia et al. 2022, appendix A).

    Raises:
        ConfigError: there are more prompts than the token budget allows.
    """
    assert site.tokens is not None
    budget = TOKEN_BUDGET * site.tokens.num_image_tokens
    if count > budget:
        raise ConfigError(
            f"prompts={count} exceeds the token budget {budget}, twice the backbone's "
            f"{site.tokens.num_image_tokens} image tokens; take fewer"
        )
    bound = math.sqrt(6 / (site.tokens.patch_values + site.tokens.width))
    return nn.Parameter(site.parameter.new_empty(1, count, site.tokens.width).uniform_(-bound, bound))


class Entering(SiteAdapter):
    """Prompts that go into a block and stay in the sequence."""

    def __init__(self, prompts: nn.Parameter, tokens: TokenSequence) -> None:
        super().__init__()
        self.prompts = prompts
        self.num_prefix_tokens = tokens.num_prefix_tokens

    def before(self, inputs: Tensor) -> Tensor:
        """Put the prompts after the prefix tokens."""
        prefix, image = inputs[:, : self.num_prefix_tokens], inputs[:, self.num_prefix_tokens :]
        return torch.cat([prefix, self.prompts.to(inputs.dtype).expand(len(inputs), -1, -1), image], dim=1)


class Visiting(Entering):
    """Prompts that go into a block and are taken out after it."""

    def forward(self, inputs: Tensor, output: Tensor) -> Tensor:
        """Take them out."""
        return without_prompts(output, self.prompts.shape[1], self.num_prefix_tokens)


class Leaving(SiteAdapter):
    """Takes prompts out that went into an earlier block."""

    def __init__(self, num_prompts: int, tokens: TokenSequence) -> None:
        super().__init__()
        self.num_prompts, self.num_prefix_tokens = num_prompts, tokens.num_prefix_tokens

    def forward(self, inputs: Tensor, output: Tensor) -> Tensor:
        """Take out as many tokens as went in."""
        return without_prompts(output, self.num_prompts, self.num_prefix_tokens)


def without_prompts(sequence: Tensor, num_prompts: int, num_prefix_tokens: int) -> Tensor:
    """The sequence without the prompts that follow the prefix tokens."""
    return torch.cat([sequence[:, :num_prefix_tokens], sequence[:, num_prefix_tokens + num_prompts :]], dim=1)
