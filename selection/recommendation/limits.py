"""What a configuration must keep to: parameters, seconds, methods."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from adapters import METHODS, AdapterConfig
from selection.errors import RecommendationError
from selection.evidence.table import TrialTable


@dataclasses.dataclass(frozen=True)
class Limits:
    """What a configuration must keep to.

    Attributes:
        max_params: At most so many trainable parameters, those of the classifier not counted.
        max_seconds: At most so long an expected training.
        mergeable_only: Only methods that can become a plain model.
        methods: Only these; all if None.
        without_methods: Not these.
    """

    max_params: int | None = None
    max_seconds: float | None = None
    mergeable_only: bool = False
    methods: Sequence[str] | None = None
    without_methods: tuple[str, ...] = ()

    def keep(
        self, table: TrialTable, seconds: npt.NDArray[np.float64], already: Sequence[AdapterConfig] = ()
    ) -> list[int]:
        """The numbers of the table's configurations within the limits, or `already` tried.

        Args:
            table: The candidates.
            seconds: Expected seconds of training of each, `(C,)`.
            already: Configurations that were tried on the target.

        Raises:
            RecommendationError: a method is unknown, or nothing is left.
        """
        unknown = [name for name in (*(self.methods or ()), *self.without_methods) if name not in METHODS]
        if unknown:
            raise RecommendationError(f"there is no method {unknown[0]!r}; choose from {', '.join(sorted(METHODS))}")
        allowed = [c for c, config in enumerate(table.configs) if self._allows(config)]
        if not allowed:
            known = ", ".join(sorted({config.method for config in table.configs}))
            raise RecommendationError(f"{self._told()} leaves no method with trials here; there are those of {known}")
        within = [
            c
            for c in allowed
            if table.configs[c] in already
            or (
                (self.max_params is None or table.parameters[c] <= self.max_params)
                and (self.max_seconds is None or seconds[c] <= self.max_seconds)
            )
        ]
        if not within:
            given = {"max_params": self.max_params, "max_seconds": self.max_seconds}
            told = " and ".join(f"{name}={value}" for name, value in given.items() if value is not None)
            raise RecommendationError(
                f"no configuration keeps to {told}; the smallest has {min(table.parameters[c] for c in allowed)} "
                f"parameters and the quickest takes about {min(seconds[c] for c in allowed):.0f} s"
            )
        return within

    def _told(self) -> str:
        """What is asked of methods, as the caller wrote it."""
        given = {} if self.methods is None else {"methods": list(self.methods)}
        given |= {"without_methods": list(self.without_methods)} if self.without_methods else {}
        told = [f"{name}={value}" for name, value in given.items()] + ["mergeable_only"] * self.mergeable_only
        return " with ".join(told)

    def _allows(self, config: AdapterConfig) -> bool:
        return (
            (self.methods is None or config.method in self.methods)
            and config.method not in self.without_methods
            and not (self.mergeable_only and bool(METHODS[config.method].cannot_merge))
        )
