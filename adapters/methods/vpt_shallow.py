"""VPT-shallow: learned tokens before the first block (Jia et al. 2022, https://arxiv.org/abs/2203.12119).

    [x_1, Z_1, E_1] = L_1([x_0, P, E_0]),  [x_i, Z_i, E_i] = L_i([x_{i-1}, Z_{i-1}, E_{i-1}])    (equation 4)

The prompts P go between the prefix tokens x and the image tokens E and leave after the last block, so that what
follows (pooling, norm, classifier) sees the sequence it knows.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

from adapters.methods.prompts import Entering, Leaving, Visiting, prompt_tokens
from adapters.methods.registry import register_method
from adapters.methods.site_adapter import SiteAdapter
from adapters.settings import InBlocks, rate, size
from adapters.sites import Site


@dataclasses.dataclass(frozen=True, kw_only=True)
class VPTShallowSettings(InBlocks):
    """Settings of VPT-shallow."""

    prompts: int = size(50, "Learned tokens before the first block.", tried=(10, 50))
    learning_rate: float = rate(1e-2)


@register_method(
    "vpt_shallow",
    "VPT-shallow",
    "https://arxiv.org/abs/2203.12119",
    settings=VPTShallowSettings,
    needs="blocks that take any number of tokens, as those of a plain Vision Transformer",
    trains="learned tokens before the first block",
    equal="the authors' tokens and their initial bound",
    different="no dropout of prompts, which the authors have as an option",
    cannot_merge="it adds tokens to the sequence",
)
def vpt_shallow(sites: list[Site], settings: VPTShallowSettings) -> Iterator[tuple[Site, SiteAdapter]]:
    """Into the first block, and out after the last."""
    blocks = [site for site in sites if site.tokens is not None]
    if not blocks:
        return
    first, last = blocks[0], blocks[-1]
    assert first.tokens is not None
    prompts = prompt_tokens(first, settings.prompts)
    if first is last:
        yield first, Visiting(prompts, first.tokens)
        return
    yield first, Entering(prompts, first.tokens)
    yield last, Leaving(prompts.shape[1], first.tokens)
