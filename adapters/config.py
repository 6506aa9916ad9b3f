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
        reduction: What the channels of a convolution are divided by inside its adapter.
        prompts: Learned tokens (in every block for `vpt_deep`).
        frame: Width of the learned frame around the image, as a share of the image's side.
        resized: Whether the image is shrunk into the frame instead of being covered by it.
        scale: What the adapter's branch is multiplied by before it is added.
        normalised: Whether the branch sees its block's features after the normalisation, as the MLP does, or before it.
        batch_norm: Whether the batch norms of the blocks are tuned too, with statistics of their own.
        targets: Names of the modules to attach to, instead of all that the method would choose: whole names, ends
            of names, or last parts such as `fc1`; for `lora` also `q`, `k` and `v`.
        blocks: Which of the backbone's blocks get an adapter, counted from 0 at the input; all if not given, and
            then the layers outside the blocks too. Later blocks only is cheaper to train.
        learning_rate: Peak learning rate of AdamW.
        weight_decay: Its decoupled weight decay, on matrices only.
        epochs: Passes over the training images.
    """

    method: str
    bottleneck: int | None = None
    rank: int | None = None
    reduction: int | None = None
    prompts: int | None = None
    frame: float | None = None
    resized: bool | None = None
    scale: float | None = None
    normalised: bool | None = None
    batch_norm: bool | None = None
    targets: tuple[str, ...] | None = None
    blocks: tuple[int, ...] | None = None
    learning_rate: float | None = None
    weight_decay: float | None = None
    epochs: int | None = None

    def __post_init__(self) -> None:
        """Check every setting and fill in the method's defaults."""
        if self.method not in METHODS:
            raise ConfigError(f"there is no method {self.method!r}; choose from {', '.join(sorted(METHODS))}")
        for name in ("targets", "blocks"):
            if isinstance(getattr(self, name), list):
                object.__setattr__(self, name, tuple(getattr(self, name)))
        for name, default in METHODS[self.method].defaults.items():
            if getattr(self, name) is None:
                object.__setattr__(self, name, default)
        for name in (*SIZES, *PLACES, "scale", "frame", "resized", "normalised", "batch_norm"):
            given = getattr(self, name)
            if given is not None and name not in METHODS[self.method].defaults:
                raise ConfigError(f"{self.method} takes no {name}; leave {name}={given!r} out")
        for name in SIZES:
            value = getattr(self, name)
            if value is not None and (not isinstance(value, int) or value < 1):
                raise ConfigError(f"{name}={value} must be a whole number of at least 1")
        if self.frame is not None and not 0 < self.frame < 0.5:
            raise ConfigError(f"frame={self.frame} must be a share of the image's side between 0 and 0.5")
        if self.learning_rate <= 0 or self.weight_decay < 0 or self.epochs < 1:  # type: ignore[operator]
            raise ConfigError(
                f"learning_rate={self.learning_rate} and epochs={self.epochs} must be above 0, "
                f"weight_decay={self.weight_decay} at least 0"
            )
        if self.blocks is not None:
            object.__setattr__(self, "blocks", tuple(sorted(set(self.blocks))))

    @property
    def label(self) -> str:
        """A short name for tables, such as `lora rank=8`: the method, its size, and what is not the default."""
        defaults = METHODS[self.method].defaults
        parts = [self.method]
        for field in dataclasses.fields(self)[1:]:
            value = getattr(self, field.name)
            if value is not None and (field.name in SIZES or value != defaults[field.name]):
                parts.append(f"{field.name}={_short(value)}")
        return " ".join(parts)

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
        return cls(**values)


SIZES = ("bottleneck", "rank", "reduction", "prompts")
PLACES = ("targets", "blocks")


def _short(value: Any) -> str:
    if isinstance(value, tuple):
        return ",".join(map(str, value))
    return f"{value:g}" if isinstance(value, float) else str(value)
