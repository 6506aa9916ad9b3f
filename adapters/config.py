"""What to tune and how: an adapter's method, its sizes, and the optimiser settings that matter."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from adapters.errors import ConfigError
from adapters.methods.registry import METHODS


@dataclasses.dataclass(frozen=True)
class AdapterConfig:
    """One way to tune a backbone. What is left out takes the method's default, and can then be read here.

    Attributes:
        method: One of `adapters.METHODS`.
        bottleneck: Hidden width of a bottleneck adapter. Wider learns more and costs more parameters.
        rank: Rank of a low-rank update.
        scale: What the adapter's branch is multiplied by before it is added.
        blocks: Which of the backbone's blocks get an adapter, counted from 0 at the input; all if not given, and
            then the layers outside the blocks too. Later blocks only is cheaper to train.
        learning_rate: Peak learning rate of AdamW.
        weight_decay: Its decoupled weight decay, on matrices only.
        epochs: Passes over the training images.
    """

    method: str
    bottleneck: int | None = None
    rank: int | None = None
    scale: float | None = None
    blocks: tuple[int, ...] | None = None
    learning_rate: float | None = None
    weight_decay: float | None = None
    epochs: int | None = None

    def __post_init__(self) -> None:
        """Check every setting and fill in the method's defaults."""
        if self.method not in METHODS:
            raise ConfigError(f"there is no method {self.method!r}; choose from {', '.join(sorted(METHODS))}")
        defaults = METHODS[self.method].defaults
        for name in SIZES:
            given = getattr(self, name)
            if given is not None and name not in defaults:
                raise ConfigError(f"{self.method} takes no {name}; leave {name}={given} out")
            if given is None and name in defaults:
                object.__setattr__(self, name, defaults[name])
        for name in OPTIMISER:
            if getattr(self, name) is None:
                object.__setattr__(self, name, defaults[name])
        if self.blocks is not None:
            object.__setattr__(self, "blocks", tuple(sorted(set(self.blocks))))
        for name in ("bottleneck", "rank"):
            value = getattr(self, name)
            if value is not None and (not isinstance(value, int) or value < 1):
                raise ConfigError(f"{name}={value} must be a whole number of at least 1")
        if self.learning_rate <= 0 or self.weight_decay < 0 or self.epochs < 1:  # type: ignore[operator]
            raise ConfigError(
                f"learning_rate={self.learning_rate} and epochs={self.epochs} must be above 0, "
                f"weight_decay={self.weight_decay} at least 0"
            )

    @property
    def label(self) -> str:
        """A short name for tables, such as `lora rank=8`: the method, its size, and what is not the default."""
        sizes = [f"{n}={getattr(self, n)}" for n in ("bottleneck", "rank") if getattr(self, n) is not None]
        defaults = METHODS[self.method].defaults
        sizes += [f"{n}={getattr(self, n):g}" for n in ("scale", *OPTIMISER) if getattr(self, n) != defaults.get(n)]
        if self.blocks is not None:
            sizes.append(f"blocks={','.join(map(str, self.blocks))}")
        return " ".join([self.method, *sizes])

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON, without the settings that the method does not take."""
        return {
            name: list(value) if isinstance(value, tuple) else value
            for name, value in dataclasses.asdict(self).items()
            if value is not None
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> AdapterConfig:
        """Read what `to_dict` gave.

        Raises:
            ConfigError: a setting is unknown or wrong.
        """
        unknown = set(values) - {f.name for f in dataclasses.fields(cls)}
        if unknown or "method" not in values:
            raise ConfigError(f"not an adapter config: {', '.join(sorted(unknown)) or 'no method'}")
        settings = dict(values)
        if settings.get("blocks") is not None:
            settings["blocks"] = tuple(settings["blocks"])
        return cls(**settings)


SIZES = ("bottleneck", "rank", "scale")
OPTIMISER = ("learning_rate", "weight_decay", "epochs")
