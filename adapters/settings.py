"""A method's settings: a frozen dataclass whose fields say what they mean, their default and their range.

    @dataclasses.dataclass(frozen=True, kw_only=True)
    class LoraSettings(Targeted):
        rank: int = size(8, "Rank of the update.", tried=(4, 16))

From these fields are made: the checks of `AdapterConfig`, the options of the command line, the search space, and the
tables of README and docs/adapters.md.
"""

from __future__ import annotations

import dataclasses
import math
import operator
from collections.abc import Iterable, Mapping
from numbers import Real
from typing import Any

from adapters.errors import ConfigError


@dataclasses.dataclass(frozen=True)
class Setting:
    """What a field of a method's settings stands for. Each kind of value is a subclass.

    Attributes:
        default: What it is if nothing is given.
        doc: What it does, one line.
        tried: Values worth trying, for the search space.
        is_size: Whether it is the method's size: larger learns more, or less for `reduction`, and costs accordingly.
    """

    default: Any
    doc: str
    tried: tuple[Any, ...] = ()
    is_size: bool = False

    @property
    def range(self) -> str:
        """The values that it takes, to be read after "must be"."""
        raise NotImplementedError

    def read(self, value: Any) -> Any:
        """The value as it is kept.

        Raises:
            ValueError: it is out of range.
        """
        raise NotImplementedError

    def parse(self, text: str) -> Any:
        """The value that a text stands for, as on the command line.

        Raises:
            ValueError: it stands for none.
        """
        raise NotImplementedError

    def plain(self, value: Any) -> Any:
        """A kept value for JSON."""
        return value

    def shown(self, value: Any) -> str:
        """A kept value, short, for tables."""
        return str(value)


@dataclasses.dataclass(frozen=True)
class _Whole(Setting):
    """A whole number of at least 1."""

    @property
    def range(self) -> str:
        return "a whole number of at least 1"

    def read(self, value: Any) -> int:
        if isinstance(value, bool):
            raise ValueError
        number = operator.index(value)
        if number < 1:
            raise ValueError
        return number

    def parse(self, text: str) -> int:
        return int(text)


@dataclasses.dataclass(frozen=True)
class _Number(Setting):
    """A finite number within open or closed bounds."""

    above: float = -math.inf
    at_least: float = -math.inf
    below: float = math.inf
    at_most: float = math.inf

    @property
    def range(self) -> str:
        bounds = (
            ("above", self.above),
            ("of at least", self.at_least),
            ("below", self.below),
            ("of at most", self.at_most),
        )
        told = " and ".join(f"{word} {bound:g}" for word, bound in bounds if math.isfinite(bound))
        return f"a number {told}".strip()

    def read(self, value: Any) -> float:
        if isinstance(value, bool) or not isinstance(value, Real):
            raise ValueError
        number = float(value)
        inside = self.above < number < self.below and self.at_least <= number <= self.at_most
        if not (math.isfinite(number) and inside):
            raise ValueError
        return number

    def parse(self, text: str) -> float:
        return float(text)

    def shown(self, value: Any) -> str:
        return f"{value:g}"


@dataclasses.dataclass(frozen=True)
class _Switch(Setting):
    """True or False."""

    @property
    def range(self) -> str:
        return "True or False"

    def read(self, value: Any) -> bool:
        if not isinstance(value, bool):
            raise ValueError
        return value

    def parse(self, text: str) -> bool:
        known = {"true": True, "yes": True, "false": False, "no": False}
        if text.lower() not in known:
            raise ValueError
        return known[text.lower()]


@dataclasses.dataclass(frozen=True)
class _Choice(Setting):
    """One of some words."""

    of: tuple[str, ...] = ()

    @property
    def range(self) -> str:
        return f"one of {', '.join(self.of)}"

    def read(self, value: Any) -> str:
        if value not in self.of:
            raise ValueError
        return str(value)

    def parse(self, text: str) -> str:
        return self.read(text)


@dataclasses.dataclass(frozen=True)
class _Names(Setting):
    """Some names, in the order given."""

    @property
    def range(self) -> str:
        return "several names, as in ('fc1', 'fc2')"

    def read(self, value: Any) -> tuple[str, ...]:
        names = _several(value)
        if not all(isinstance(name, str) and name for name in names):
            raise ValueError
        return names

    def parse(self, text: str) -> tuple[str, ...]:
        return tuple(part.strip() for part in text.split(","))

    def plain(self, value: Any) -> list[str]:
        return list(value)

    def shown(self, value: Any) -> str:
        return ",".join(value)


@dataclasses.dataclass(frozen=True)
class _Counted(Setting):
    """Some whole numbers from 0 on, each once, in order."""

    @property
    def range(self) -> str:
        return "several whole numbers from 0 on, as in (0, 1, 2)"

    def read(self, value: Any) -> tuple[int, ...]:
        numbers = tuple(operator.index(number) for number in _several(value))
        if min(numbers) < 0:
            raise ValueError
        return tuple(sorted(set(numbers)))

    def parse(self, text: str) -> tuple[int, ...]:
        return tuple(int(part) for part in text.split(","))

    def plain(self, value: Any) -> list[int]:
        return list(value)

    def shown(self, value: Any) -> str:
        return ",".join(map(str, value))


@dataclasses.dataclass(frozen=True)
class _Sizes(Setting):
    """A whole number for each of some sites, by name; not all of them 0."""

    @property
    def range(self) -> str:
        return "whole numbers by the names of sites, as in {'blocks.0.attn.qkv': 4}, at least one of them above 0"

    def read(self, value: Any) -> tuple[tuple[str, int], ...]:
        pairs = value.items() if isinstance(value, Mapping) else _several(value)
        found = {name: operator.index(number) for name, number in pairs}
        if not all(isinstance(name, str) for name in found) or any(isinstance(n, bool) for _, n in pairs):
            raise ValueError
        if min(found.values(), default=0) < 0 or not any(found.values()):
            raise ValueError
        return tuple(sorted(found.items()))

    def parse(self, text: str) -> dict[str, int]:
        pairs = (part.split(":") for part in text.split(","))
        return {name.strip(): int(number) for name, number in pairs}

    def plain(self, value: Any) -> dict[str, int]:
        return dict(value)

    def shown(self, value: Any) -> str:
        numbers = [number for _, number in value]
        return f"{min(numbers)}..{max(numbers)} at {len(numbers)} sites"


def _several(value: Any) -> tuple[Any, ...]:
    """The elements of a list or tuple that has some; a single text is no list of names."""
    if isinstance(value, str | Mapping) or not isinstance(value, Iterable):
        raise ValueError
    found = tuple(value)
    if not found:
        raise ValueError
    return found


COUNT = _Whole(1, "How many of something.")
SHARE = _Number(0.0, "A share of something, less than all of it.", at_least=0, below=1)


def checked(name: str, value: Any, setting: Setting) -> Any:
    """The value of a setting as it is kept.

    Raises:
        ConfigError: it is out of range.
    """
    try:
        return setting.read(value)
    except (ValueError, TypeError) as error:
        raise ConfigError(f"{name}={value!r} must be {setting.range}") from error


def _field(setting: Setting) -> Any:
    return dataclasses.field(default=setting.default, metadata={"setting": setting})


def size(default: int, doc: str, *, tried: tuple[int, ...] = ()) -> Any:
    """The field of a method's size, at least 1."""
    return _field(_Whole(default, doc, tried, is_size=True))


def number(
    default: float,
    doc: str,
    *,
    above: float = -math.inf,
    at_least: float = -math.inf,
    below: float = math.inf,
    at_most: float = math.inf,
    tried: tuple[float, ...] = (),
) -> Any:
    """The field of a finite number."""
    return _field(_Number(default, doc, tried, False, above, at_least, below, at_most))


def switch(default: bool, doc: str) -> Any:
    """The field of something that is done or not."""
    return _field(_Switch(default, doc))


def rate(default: float, *, tried: tuple[float, ...] = ()) -> Any:
    """The field of the learning rate."""
    return number(default, "Peak learning rate of AdamW.", above=0, tried=tried)


def decay(default: float, *, tried: tuple[float, ...] = ()) -> Any:
    """The field of the weight decay."""
    return number(default, "Decoupled weight decay of AdamW, on matrices only.", at_least=0, tried=tried)


def passes(default: int) -> Any:
    """The field of the number of epochs."""
    return _field(_Whole(default, "Passes over the training images."))


def modules(default: tuple[str, ...] | None, doc: str) -> Any:
    """The field of the modules to attach to."""
    return _field(_Names(default, doc))


SHARED = ("sizes", "placement", "targets", "blocks", "learning_rate", "weight_decay", "epochs", "batch_size", "augment")
"""What several methods' settings have in common; told after a method's own."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    """What every method has: how it is trained. A method's own settings are a subclass.

    Raises:
        ConfigError: a value is out of range.
    """

    learning_rate: float = rate(1e-2)
    weight_decay: float = decay(1e-4)
    epochs: int = passes(20)
    batch_size: int = _field(_Whole(32, "Images in a step, over all processes."))
    augment: str = _field(
        _Choice("none", "What is done with training images (`adapters.augmentation`).", of=("none", "light", "timm"))
    )

    def __post_init__(self) -> None:
        """Check every value; None stands for the default."""
        for name, setting in self.declared().items():
            given = getattr(self, name)
            if given is None and setting.default is None:
                continue
            object.__setattr__(self, name, setting.default if given is None else checked(name, given, setting))

    @classmethod
    def declared(cls) -> dict[str, Setting]:
        """What the fields stand for, by name: the method's own first, then what it shares with others."""
        found: dict[str, Setting] = {field.name: field.metadata["setting"] for field in dataclasses.fields(cls)}
        own = [name for name in found if name not in SHARED]
        return {name: found[name] for name in (*own, *SHARED) if name in found}


@dataclasses.dataclass(frozen=True, kw_only=True)
class InBlocks(Settings):
    """Of a method that goes into a backbone's blocks."""

    blocks: tuple[int, ...] | None = _field(
        _Counted(
            None, "Which of the backbone's blocks get an adapter, counted from 0 at the input; everywhere if not given."
        )
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Targeted(InBlocks):
    """Of a method whose modules can be named, too."""

    targets: tuple[str, ...] | None = modules(
        None, "Modules to attach to instead of the method's own choice: whole names, ends of names, or parts as `fc1`."
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sized(InBlocks):
    """Of a method whose size may differ from site to site, as `adapters.allocate` has it."""

    sizes: tuple[tuple[str, int], ...] | None = _field(
        _Sizes(None, "Sizes at single sites, by their names, instead of the usual one; with 0 a site gets no adapter.")
    )

    def at(self, site: str) -> int:
        """The size at a site."""
        usual = next(name for name, setting in self.declared().items() if setting.is_size)
        given: int = dict(self.sizes or ()).get(site, getattr(self, usual))
        return given


@dataclasses.dataclass(frozen=True, kw_only=True)
class Placeable(Sized):
    """Of a method whose sites can share out the parameters of one size, some taking more and others less."""

    placement: str | None = _field(
        _Choice(
            None,
            "Rule by which the sites share out the parameters of the usual size, once the task is known, by the Fisher"
            " of the backbone on it (`adapters.RULES`); the same size everywhere if not given.",
            of=("mass", "mass_per_parameter", "root_mass"),
        )
    )

    def __post_init__(self) -> None:
        """Check every value, and that sizes are not given twice."""
        super().__post_init__()
        if self.sizes is not None and self.placement is not None:
            raise ConfigError(f"sizes are given, so placement={self.placement!r} has nothing to share out; give one")
