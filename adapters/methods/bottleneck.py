"""What the bottleneck adapters share: a projection down, a nonlinearity, and a projection up."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from adapters.errors import ConfigError
from adapters.methods.site_adapter import Hook, SiteAdapter, remove_hooks
from adapters.sites import Site


class Bottleneck(SiteAdapter):
    """`scale * (ReLU(z W_down + b_down) W_up + b_up)`, added to the site's output.

    In parallel to the site, z is its input; in series, its output.

    Args:
        site: Where it goes.
        width: Of the hidden layer.
        scale: Of the branch.
        parallel: Whether it sees the site's input instead of its output.
        dropout: Share of hidden units left out in training.
        source: A module before the site whose input the branch sees instead.
    """

    def __init__(
        self,
        site: Site,
        width: int,
        *,
        scale: float = 1.0,
        parallel: bool,
        dropout: float = 0.0,
        source: nn.Module | None = None,
    ) -> None:
        super().__init__()
        seen = site.width if parallel else site.output_width
        if width > seen:
            raise ConfigError(f"bottleneck={width} exceeds the width {seen} of {site.name}; take a smaller one")
        self.scale, self.parallel, self.dropout = scale, parallel, dropout
        self.sources = [] if source is None else [source]  # in a list, the module does not become the adapter's
        self.remembered: tuple[Tensor, Tensor] | None = None
        self.follows_source = False
        self.channel_axis = site.channel_axis
        self.down = nn.Linear(seen, width).to(site.parameter)
        self.up = nn.Linear(width, site.output_width).to(site.parameter)
        nn.init.zeros_(self.down.bias)
        nn.init.zeros_(self.up.bias)

    def forward(self, inputs: Tensor, output: Tensor) -> Tensor:
        """Add the branch."""
        seen = inputs if self.parallel else output
        if self.remembered is not None:
            seen, given = self.remembered
            self.remembered = None
            if not self.follows_source and given is not inputs:
                raise ConfigError(
                    "the normalisation does not come right before the MLP in this backbone; leave normalised=False out"
                )
            self.follows_source = True
        seen = seen.movedim(self.channel_axis, -1)
        hidden = F.relu(self.down(seen))
        if self.dropout:
            hidden = F.dropout(hidden, self.dropout, self.training)
        return torch.add(output, self.up(hidden).movedim(-1, self.channel_axis), alpha=self.scale)

    def enable(self, module: nn.Module, output: nn.Module) -> None:
        """Start to act, and to remember what the source gets."""
        super().enable(module, output)
        for source in self.sources:
            source.register_forward_hook(_Remember(self))

    def disable(self, module: nn.Module, output: nn.Module) -> None:
        """Stop acting and remembering."""
        super().disable(module, output)
        for source in self.sources:
            remove_hooks(self, source._forward_hooks)


class _Remember(Hook):
    """Keeps what a source got and gave until the site's own turn comes."""

    def __call__(self, _: nn.Module, args: tuple[Any, ...], output: Tensor) -> None:
        self.adapter.remembered = args[0], output
