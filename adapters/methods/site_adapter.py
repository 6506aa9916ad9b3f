"""The contract of the trainable part at one site of a backbone.

It acts through hooks on the site's module. Some networks never call the module and take its weight instead, as BEiT
does of its query-key-value layers: `F.linear(x, self.qkv.weight)`. There no hook would fire, and what can be folded
into the weight acts through it: whoever reads the module's weight gets the folded one. The module's parameters, their
names and its class's name stay what they are.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

from adapters.errors import MergeError


class SiteAdapter(nn.Module):
    """The trainable part at one site. It acts only while it is enabled.

    A method overrides `before` to change what goes into the site, or `forward` to change what comes out of it, and
    `folded` where a change of the site's weights computes the same.

    Attributes:
        through_weights: Whether it acts through the site's weights instead of hooks.
    """

    through_weights: bool = False

    @property
    def tunes_statistics(self) -> bool:
        """Whether the running statistics of a batch norm are learned too; they are kept otherwise."""
        return False

    def before(self, inputs: Tensor) -> Tensor:
        """What the site gets instead of `inputs`."""
        return inputs

    def forward(self, inputs: Tensor, output: Tensor) -> Tensor:
        """What the site gives instead of `output`; `inputs` are those that the site got."""
        return output

    def folded(self, module: nn.Module, weight: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """The weight and bias with which the site computes the same without this adapter; gradients flow through.

        Args:
            module: The site's module, for its geometry.
            weight: Its own weight.
            bias: Its own bias, if it has one.

        Raises:
            MergeError: the method cannot be folded.
        """
        raise MergeError(f"{type(self).__name__} cannot be folded into {type(module).__name__}")

    @property
    def can_fold(self) -> bool:
        """Whether `folded` is there."""
        return type(self).folded is not SiteAdapter.folded

    @torch.no_grad()
    def fold(self, module: nn.Module) -> None:
        """Change the site's own weights, in place, so that it computes the same without this adapter.

        Raises:
            MergeError: the method cannot be folded.
        """
        weight, bias = self.folded(module, *_own(module))
        for name, value in (("weight", weight), ("bias", bias)):
            if value is not None:
                module._parameters[name].copy_(value)  # type: ignore[union-attr]

    def enable(self, module: nn.Module, output: nn.Module) -> None:
        """Start to act on a site whose result is the output of `output`."""
        if self.through_weights:
            module.__dict__[_FOLDING] = [self]  # in a list, the adapter does not become a part of the module
            module.__class__ = _reading_folded(type(module))  # type: ignore[arg-type]
            return
        if type(self).before is not SiteAdapter.before:
            module.register_forward_pre_hook(_Before(self))
        if type(self).forward is not SiteAdapter.forward:
            output.register_forward_hook(_After(self))

    def disable(self, module: nn.Module, output: nn.Module) -> None:
        """Stop acting, and leave the site as it was."""
        if module.__dict__.get(_FOLDING, [None])[0] is self:
            del module.__dict__[_FOLDING]
            module.__class__ = type(module).__mro__[1]
            return
        remove_hooks(self, module._forward_pre_hooks)
        remove_hooks(self, output._forward_hooks)

    def tensors(self, module: nn.Module) -> dict[str, Tensor]:
        """What was learned: parameters and statistics, by name."""
        return dict(self.named_parameters()) | dict(self.named_buffers())


class Hook:
    """A site's hook, recognisable as that of an adapter, and copied along with it."""

    def __init__(self, adapter: Any) -> None:
        self.adapter = adapter


def remove_hooks(adapter: SiteAdapter, hooks: dict[int, Any]) -> None:
    """Take an adapter's own hooks out of a module's."""
    for key, hook in list(hooks.items()):
        if isinstance(hook, Hook) and hook.adapter is adapter:
            del hooks[key]


class _Before(Hook):
    def __call__(self, _: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
        return (self.adapter.before(args[0]), *args[1:])


class _After(Hook):
    def __call__(self, _: nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor:
        return self.adapter(args[0], output)


_FOLDING = "_task2vec_folding"


def _own(module: nn.Module) -> tuple[Tensor, Tensor | None]:
    """A module's own weight and bias, whoever acts on it."""
    return module._parameters["weight"], module._parameters.get("bias")  # type: ignore[return-value]


@cache
def _reading_folded(base: type[nn.Module]) -> type[nn.Module]:
    """The class whose instances show the folded weight and bias to whoever asks for them, and are otherwise `base`."""

    def read(position: int) -> property:
        return property(lambda module: module.__dict__[_FOLDING][0].folded(module, *_own(module))[position])

    namespace = {
        "weight": read(0),
        "bias": read(1),
        "__module__": base.__module__,
        # The class cannot be found by its name, which is that of `base`.
        "__reduce__": lambda module: (_reading_instance, (base,), module.__dict__),
    }
    return type(base.__name__, (base,), namespace)


def _reading_instance(base: type[nn.Module]) -> nn.Module:
    """An empty instance of `_reading_folded(base)`, for pickle to fill."""
    module = base.__new__(base)
    module.__class__ = _reading_folded(base)  # type: ignore[arg-type]
    return module
