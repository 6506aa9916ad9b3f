"""Linear probing: only the new classifier learns."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from adapters.methods.registry import register_method
from adapters.methods.site_adapter import SiteAdapter

if TYPE_CHECKING:
    from adapters.config import AdapterConfig
    from adapters.sites import Site


@register_method(
    "linear",
    "linear probe",
    needs="",
    trains="nothing",
    equal="the usual linear probe",
    learning_rate=1e-2,
    epochs=30,
    places=(),
)
def linear(sites: list[Site], config: AdapterConfig) -> Iterator[tuple[Site, SiteAdapter]]:
    """No adapter anywhere: the baseline that every method has to beat."""
    yield from ()
