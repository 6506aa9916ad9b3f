"""What to tune and how: an adapter's method and its settings."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from adapters.errors import ConfigError
from adapters.methods import METHODS
from adapters.settings import Setting, Settings


@dataclasses.dataclass(frozen=True, init=False)
class AdapterConfig:
    """One way to tune a backbone. What is left out takes the method's default, and can then be read here.

    Every setting is an attribute, as in `config.rank`; it is None where the method takes no such setting. What each
    method takes is declared in its file and listed in docs/adapters.md.

    Args:
        method: One of `adapters.METHODS`.
        settings: Settings to start from; the method's defaults if not given.
        changes: Settings by name, as in `rank=8`; None stands for the method's default.

    Attributes:
        method: One of `adapters.METHODS`.
        settings: All settings, typed, such as `adapters.methods.lora.LoraSettings`.

    Raises:
        ConfigError: there is no such method, it takes no such setting, or a value is out of range.
    """

    method: str
    settings: Settings

    def __init__(self, method: str, settings: Settings | None = None, **changes: Any) -> None:
        if method not in METHODS:
            raise ConfigError(f"there is no method {method!r}; choose from {', '.join(sorted(METHODS))}")
        kind = METHODS[method].settings
        if settings is not None and type(settings) is not kind:
            raise ConfigError(f"{method} takes {kind.__name__}, not {type(settings).__name__}")
        declared = kind.declared()
        for name, value in changes.items():
            if name not in declared and value is not None:
                raise ConfigError(
                    f"{method} takes no {name}; leave {name}={value!r} out (it takes {', '.join(declared)})"
                )
        given = {name: value for name, value in changes.items() if name in declared}
        own = kind(**given) if settings is None else dataclasses.replace(settings, **given)
        object.__setattr__(self, "method", method)
        object.__setattr__(self, "settings", own)

    def __getattr__(self, name: str) -> Any:
        """A setting of the method; None for one that only other methods take."""
        if name.startswith("_") or "settings" not in self.__dict__:  # while it is being copied, say
            raise AttributeError(name)
        if name in self.settings.declared():
            return getattr(self.settings, name)
        if name in all_settings():
            return None
        raise AttributeError(f"no method has a setting {name!r}")

    @property
    def learning_rate(self) -> float:
        """Peak learning rate of AdamW."""
        return self.settings.learning_rate

    @property
    def weight_decay(self) -> float:
        """Its decoupled weight decay, on matrices only."""
        return self.settings.weight_decay

    @property
    def epochs(self) -> int:
        """Passes over the training images."""
        return self.settings.epochs

    @property
    def batch_size(self) -> int:
        """Images in a step, over all processes."""
        return self.settings.batch_size

    @property
    def augment(self) -> str:
        """What is done with training images."""
        return self.settings.augment

    @property
    def size(self) -> int | None:
        """The method's size (a rank, a width, a number of prompts), None if it has none."""
        name = METHODS[self.method].size
        return None if name is None else getattr(self.settings, name)

    def replace(self, **changes: Any) -> AdapterConfig:
        """The same with some settings changed; None stands for the method's default."""
        return AdapterConfig(self.method, self.settings, **changes)

    @property
    def told(self) -> dict[str, str]:
        """What tables tell of its settings, as short texts by name: the size, and what is not the default."""
        values = ((name, setting, getattr(self.settings, name)) for name, setting in self.settings.declared().items())
        return {name: s.shown(value) for name, s, value in values if s.is_size or value != s.default}

    @property
    def label(self) -> str:
        """A short name for tables, such as `lora rank=8`: the method, its size, and what is not the default."""
        return " ".join([self.method, *(f"{name}={text}" for name, text in self.told.items())])

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON, without the settings that the method does not take."""
        values = ((name, setting, getattr(self.settings, name)) for name, setting in self.settings.declared().items())
        return {"method": self.method} | {name: s.plain(value) for name, s, value in values if value is not None}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> AdapterConfig:
        """Read what `to_dict` gave.

        Raises:
            ConfigError: there is no method, or a setting is unknown or wrong.
        """
        if not isinstance(values.get("method"), str):
            raise ConfigError("not an adapter config: it names no method")
        return cls(**values)

    @classmethod
    def from_texts(cls, method: str, texts: Mapping[str, str]) -> AdapterConfig:
        """Settings as they stand on a command line: `{"rank": "8", "blocks": "3,4,5"}`.

        Raises:
            ConfigError: as for the config itself, or a text stands for no value.
        """
        cls(method)
        declared = METHODS[method].settings.declared()
        changes: dict[str, Any] = {}
        for name, text in texts.items():
            try:
                changes[name] = declared[name].parse(text) if name in declared else text
            except ValueError as error:
                raise ConfigError(f"{name}={text!r} must be {declared[name].range}") from error
        return cls(method, **changes)


def all_settings() -> dict[str, tuple[Setting, tuple[str, ...]]]:
    """Every setting that some method takes, with the methods that take it: what a command line has options for.

    The default and the values worth trying are those of the first of the methods.
    """
    found: dict[str, tuple[Setting, tuple[str, ...]]] = {}
    for method, entry in METHODS.items():
        for name, setting in entry.settings.declared().items():
            first, methods = found.get(name, (setting, ()))
            found[name] = first, (*methods, method)
    return found
