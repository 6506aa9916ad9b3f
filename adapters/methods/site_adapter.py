"""The contract of the trainable part at one site of a backbone."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from adapters.errors import MergeError


class SiteAdapter(nn.Module):
    """The trainable part at one site. It acts through the site's forward hooks, and only while it is enabled.

    A method overrides `before` to change what goes into the site, or `forward` to change what comes out of it.
    """

    def before(self, inputs: Tensor) -> Tensor:
        """What the site gets instead of `inputs`."""
        return inputs

    def forward(self, inputs: Tensor, output: Tensor) -> Tensor:
        """What the site gives instead of `output`; `inputs` are those that the site got."""
        return output

    def fold(self, module: nn.Module) -> None:
        """Change the site's own weights, in place, so that it computes the same without this adapter.

        Raises:
            MergeError: the method cannot be folded.
        """
        raise MergeError(f"{type(self).__name__} cannot be folded into {type(module).__name__}")

    def enable(self, module: nn.Module, output: nn.Module) -> None:
        """Start to act on a site whose result is the output of `output`."""
        if type(self).before is not SiteAdapter.before:
            module.register_forward_pre_hook(_Before(self))
        if type(self).forward is not SiteAdapter.forward:
            output.register_forward_hook(_After(self))

    def disable(self, module: nn.Module, output: nn.Module) -> None:
        """Stop acting, and leave the site as it was."""
        for hooks in (module._forward_pre_hooks, output._forward_hooks):
            for key, hook in list(hooks.items()):
                if isinstance(hook, _Hook) and hook.adapter is self:
                    del hooks[key]

    def tensors(self, module: nn.Module) -> dict[str, Tensor]:
        """What was learned: parameters and statistics, by name."""
        return dict(self.named_parameters()) | dict(self.named_buffers())


class _Hook:
    """A site's hook, recognisable as that of an adapter, and copied along with it."""

    def __init__(self, adapter: SiteAdapter) -> None:
        self.adapter = adapter


class _Before(_Hook):
    def __call__(self, _: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
        return (self.adapter.before(args[0]), *args[1:])


class _After(_Hook):
    def __call__(self, _: nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor:
        return self.adapter(args[0], output)
