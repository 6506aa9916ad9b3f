"""A module at which a network is entered, with what was recorded there."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from task2vec.errors import ProbeError
from task2vec.probe import Probe, given_to


class Entry:
    """A module whose input is recorded once and given back later.

    To enter there, the network is run on a single image, and at the module that image's input is replaced by the batch
    that was recorded: whatever the network is, only one image goes through what precedes the module.
    """

    def __init__(self, probe: Probe, name: str) -> None:
        modules = dict(probe.module.named_modules())
        if name not in modules or not name:
            blocks = [n for n in modules if n.count(".") == 0 and n][:12]
            raise ProbeError(f"{probe.name} has no module {name!r} to enter at; it has {', '.join(blocks)} and more")
        self.name, self.probe, self.module = name, probe, modules[name]
        self.image = torch.empty(0)

    @contextmanager
    def recording(self) -> Iterator[list[Tensor]]:
        """Inside the context, the module's inputs are collected."""
        recorded: list[Tensor] = []
        handle = self.module.register_forward_pre_hook(
            lambda _, args, kwargs: recorded.append(given_to(args, kwargs).detach()), with_kwargs=True
        )
        try:
            yield recorded
        finally:
            handle.remove()
        if len(recorded) != 1:
            raise ProbeError(f"from_layer={self.name!r} is called {len(recorded)} times an image; give one called once")

    @contextmanager
    def replaying(self) -> Iterator[Callable[[Tensor, Callable[[Tensor], Tensor]], Tensor]]:
        """Inside the context, a function that runs the network (`Tensor -> Tensor`) from the module on."""
        given: list[Tensor] = []

        def give(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
            if args:
                return (given[0], *args[1:]), kwargs
            return args, kwargs | {next(iter(kwargs)): given[0]}

        handle = self.module.register_forward_pre_hook(give, with_kwargs=True)

        def replay(inputs: Tensor, network: Callable[[Tensor], Tensor]) -> Tensor:
            given[:] = [inputs]
            return network(self.image)

        try:
            yield replay
        finally:
            handle.remove()

    def layers_after(self, run: Callable[[], Tensor]) -> tuple[dict[str, nn.Linear | nn.Conv2d], Tensor]:
        """The measured layers that run only after the module was entered, and what the run gives."""
        before: set[str] = set()
        after: set[str] = set()
        current = before

        def enter(*_: Any) -> None:
            nonlocal current
            current = after

        handles = [self.module.register_forward_pre_hook(enter)]
        handles += [
            layer.register_forward_hook(lambda *_, name=name: current.add(name))
            for name, layer in self.probe.layers.items()
        ]
        try:
            result = run()
        finally:
            for handle in handles:
                handle.remove()
        return {name: layer for name, layer in self.probe.layers.items() if name in after - before}, result
