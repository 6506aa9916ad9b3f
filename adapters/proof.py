"""The proof that an attached adapter does something: one forward and one backward pass, right after attaching.

A hook on a module that the network never calls changes nothing, without any sign of it: the adapter would train to
nothing, and merging it would then change the model. So every site must be called, or its weight read, and a gradient
must reach every tensor of the adapter.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from adapters.adapter import Adapter, Part, active_name, adapter_of, adapters_of, forget_derived, plain, switch
from adapters.errors import IncompatibleError
from adapters.methods.own_weights import OwnWeights
from adapters.sites import image_size

SHOWN = 3  # names in a message


def example_images(backbone: nn.Module) -> Tensor | None:
    """One random image `(1, C, H, W)` of the size that a backbone was made for; None if it does not say."""
    size = image_size(backbone)
    if size is None:
        return None
    like = next(p for p in backbone.parameters() if p.is_floating_point())
    noise = torch.randn(1, *size, generator=torch.Generator().manual_seed(0), device="cpu")
    return noise.to(like.device, like.dtype)


def known_images(model: nn.Module) -> Tensor | None:
    """A random image `(1, C, H, W)` that a model with an adapter takes: of the size that it was made for, or that the
    proof was made with; None if neither is known.
    """
    images, shape = example_images(model), adapter_of(model).proven_with
    if images is not None or shape is None:
        return images
    like = next(p for p in model.parameters() if p.is_floating_point())
    return torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(like.device, like.dtype)


def prove(model: nn.Module, images: Tensor, call: Callable[[Tensor], Tensor] | None = None) -> None:
    """Make sure that every part of the active adapter acts, through its site's weight where its hook does not fire.

    The backbone's own weights that a method trains in their place are exempt: a network need not use all of them.

    Args:
        model: With an active adapter; left as it is but for the way in which parts act.
        images: Any, `(B, C, H, W)`.
        call: What to give them to, if not to the model.

    Raises:
        IncompatibleError: a part has no effect; names the sites. Or the model fails with the adapter.
    """
    adapter, call = adapter_of(model), call or model
    try:
        called, reached = _trace(model, adapter, images, call)
    except torch.OutOfMemoryError:  # says nothing of the method
        raise
    except (RuntimeError, ValueError, AssertionError, IndexError, TypeError, AttributeError) as error:
        if not takes(model, images, call):
            raise  # with or without the adapter
        reason = str(error).splitlines()[0]
        raise IncompatibleError(
            f"{adapter.config.method} cannot act in {type(model).__name__} ({reason}); choose others of its modules "
            "with targets= or blocks=, or another method"
        ) from error
    silent = [part for part in adapter.parts if not isinstance(part.adapter, OwnWeights) and part.site not in called]
    foldable = [part for part in silent if part.adapter.can_fold]
    if foldable:
        act_through_weights(model, foldable)
        called, reached = _trace(model, adapter, images, call)
    dead = [part.site for part in silent if part not in foldable]
    replacing = [part for part in adapter.parts if isinstance(part.adapter, OwnWeights)]
    own = {id(tensor) for part in replacing for tensor in part.adapter.tensors(part.module).values()}
    dead += [
        name.rpartition("/")[0]
        for name, tensor in adapter.tensors(model).items()
        if isinstance(tensor, nn.Parameter) and id(tensor) not in own and id(tensor) not in reached
    ]
    if not dead and own and not own & reached:
        dead = [part.site for part in adapter.parts]
    dead = list(dict.fromkeys(dead))
    if dead:
        more = f" and {len(dead) - SHOWN} more" if len(dead) > SHOWN else ""
        raise IncompatibleError(
            f"{adapter.config.method} has no effect at {', '.join(dead[:SHOWN])}{more} of {type(model).__name__}, "
            "which does not call these modules; choose others with targets= or blocks=, or another method"
        )
    adapter.proven, adapter.proven_with = True, tuple(images.shape)


def act_through_weights(model: nn.Module, parts: Sequence[Part]) -> None:
    """Let parts of the active adapter act through their sites' weights instead of hooks."""
    if all(part.adapter.through_weights for part in parts):
        return
    name = adapters_of(model).active
    switch(model, None)
    for part in parts:
        part.adapter.through_weights = True
    switch(model, name)


def takes(model: nn.Module, images: Tensor, call: Callable[[Tensor], Tensor] | None = None) -> bool:
    """Whether a model takes such images without an adapter; it may name a size for which it was not made."""
    try:
        with plain(model), evaluating(model), torch.no_grad():
            (call or model)(images)
    except (RuntimeError, ValueError, AssertionError, IndexError):
        return False
    return True


def expect_proof(model: nn.Module) -> None:
    """Make the proof with the first images that come."""
    remove_expectation(model)
    model.register_forward_pre_hook(_prove_at_first)


def remove_expectation(model: nn.Module) -> None:
    """Make no proof by itself."""
    hooks = model._forward_pre_hooks
    for key in [key for key, hook in hooks.items() if hook is _prove_at_first]:
        del hooks[key]


def _prove_at_first(model: nn.Module, args: tuple[object, ...]) -> None:
    if active_name(model) is None or adapter_of(model).proven or not args or not isinstance(args[0], Tensor):
        return
    if torch.is_inference_mode_enabled() or _is_recorded(args[0]):
        return  # the next images will do
    # What stands before it, as another hook, has had its turn.
    prove(model, args[0].detach()[:1], model.forward)


def _is_recorded(images: Tensor) -> bool:
    """Whether a forward pass is not computed but written down, or vectorised."""
    tracing: bool = torch.jit.is_tracing()  # type: ignore[attr-defined]
    compiling = torch.compiler.is_compiling() or torch.compiler.is_exporting()
    return tracing or compiling or type(images) is not Tensor or torch._C._functorch.is_functorch_wrapped_tensor(images)


def _trace(
    model: nn.Module, adapter: Adapter, images: Tensor, call: Callable[[Tensor], Tensor]
) -> tuple[set[str], set[int]]:
    """The sites that are called, and the identities of the trainable tensors that a gradient reaches."""
    called: set[str] = set()
    handles = [part.output.register_forward_hook(lambda *_, part=part: called.add(part.site)) for part in adapter.parts]
    parameters = [tensor for tensor in adapter.tensors(model).values() if isinstance(tensor, nn.Parameter)]
    asking = [parameter.requires_grad for parameter in parameters]  # some may be frozen by now
    try:
        with evaluating(model), torch.enable_grad():
            for parameter in parameters:
                parameter.requires_grad_(True)
            total = call(images).float().sum()
        gradients = torch.autograd.grad(total, parameters, allow_unused=True)
    finally:
        for handle in handles:
            handle.remove()
        for parameter, asked in zip(parameters, asking, strict=True):
            parameter.requires_grad_(asked)
    reached = {id(p) for p, gradient in zip(parameters, gradients, strict=True) if gradient is not None}
    return called, reached


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Within it every module is in evaluation mode: nothing is dropped, and no statistics change."""
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield
    finally:
        forget_derived(model)  # of what gradients flow through, nothing may stay
        for module, training in modes.items():
            module.training = training
