"""Linear probing: only the new classifier learns."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

from adapters.methods.registry import register_method
from adapters.methods.site_adapter import SiteAdapter
from adapters.settings import Settings, decay, passes, rate
from adapters.sites import Site


@dataclasses.dataclass(frozen=True, kw_only=True)
class LinearSettings(Settings):
    """Settings of linear probe."""

    learning_rate: float = rate(1e-2, tried=(0.003, 0.01))
    weight_decay: float = decay(1.0)  # alone on many features, a classifier learns its images by heart
    epochs: int = passes(100)


@register_method(
    "linear",
    "linear probe",
    settings=LinearSettings,
    needs="",
    trains="nothing",
    equal="the usual linear probe",
    only_classifier=True,
)
def linear(sites: list[Site], settings: LinearSettings) -> Iterator[tuple[Site, SiteAdapter]]:
    """No adapter anywhere: the baseline that every method has to beat."""
    yield from ()
