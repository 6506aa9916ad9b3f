"""VPT-deep: learned tokens in every block (Jia et al. 2022, https://arxiv.org/abs/2203.12119).

    [x_i, _, E_i] = L_i([x_{i-1}, P_{i-1}, E_{i-1}])    (equation 5)

The prompts P go between the prefix tokens x and the image tokens E; what becomes of them in a block is left out.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

from adapters.methods.prompts import Visiting, prompt_tokens
from adapters.methods.registry import register_method
from adapters.settings import Placeable, rate, size
from adapters.sites import Site


@dataclasses.dataclass(frozen=True, kw_only=True)
class VPTDeepSettings(Placeable):
    """Settings of VPT-deep."""

    prompts: int = size(10, "Learned tokens in every block.", tried=(5, 20))
    learning_rate: float = rate(2e-2)


@register_method(
    "vpt_deep",
    "VPT-deep",
    "https://arxiv.org/abs/2203.12119",
    settings=VPTDeepSettings,
    needs="blocks that take any number of tokens, as those of a plain Vision Transformer",
    trains="learned tokens in every block",
    equal="the authors' tokens and their initial bound",
    different="no dropout of prompts, which the authors have as an option",
    cannot_merge="it adds tokens to the sequence",
)
def vpt_deep(sites: list[Site], settings: VPTDeepSettings) -> Iterator[tuple[Site, Visiting]]:
    """Into every block, and out again after it."""
    for site in sites:
        if site.tokens is not None and settings.at(site.name):
            yield site, Visiting(prompt_tokens(site, settings.at(site.name)), site.tokens)
