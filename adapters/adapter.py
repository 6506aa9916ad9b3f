"""The adapters of a backbone, by name, and which of them acts.

A backbone keeps its class, its modules and the names of its weights. Its adapters live beside them, in
`backbone.adapters`; switching between them moves hooks and classifiers, and copies nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

from adapters.config import AdapterConfig
from adapters.errors import ConfigError
from adapters.methods.site_adapter import SiteAdapter
from adapters.sites import Site, classifier_names, is_inside


class Part(NamedTuple):
    """What an adapter does at one site.

    Attributes:
        site: The site's name.
        adapter: The trainable part.
        module: The site's module.
        output: The module that gives the site's output.
    """

    site: str
    adapter: SiteAdapter
    module: nn.Module
    output: nn.Module


class Adapter(nn.Module):
    """One adapter: the trainable part at each site, a classifier, and the config that made them."""

    def __init__(
        self,
        backbone: nn.Module,
        config: AdapterConfig,
        parts: list[tuple[Site, SiteAdapter]],
        heads: dict[str, nn.Module],
    ) -> None:
        super().__init__()
        self.config = config
        self.proven = False  # `adapters.proof` has seen it act
        self.proven_with: tuple[int, ...] | None = None  # on images of this shape
        self.learning: list[bool] | None = None  # which parameters learn, kept while another one acts; None for all
        self.sites = nn.ModuleDict({_key(site.name): part for site, part in parts})
        self.heads = nn.ModuleDict({_key(name): head for name, head in heads.items()})  # while it does not act
        # In a list, the backbone's modules do not become the adapter's.
        self.parts = [Part(s.name, part, s.module, backbone.get_submodule(s.output)) for s, part in parts]

    def tensors(self, backbone: nn.Module) -> dict[str, Tensor]:
        """What was learned, by the names that checkpoints give it: `site/tensor`, the classifier last.

        A tensor that several sites share has the name of the first.
        """
        named = {
            f"{part.site}/{name}": tensor
            for part in self.parts
            for name, tensor in part.adapter.tensors(part.module).items()
        }
        for name in classifier_names(backbone):
            head = self.heads[_key(name)] if self.heads else backbone.get_submodule(name)
            learned = (*head.named_parameters(), *head.named_buffers())
            named |= {f"{name}/{tensor_name}": tensor for tensor_name, tensor in learned}
        first = {id(tensor): name for name, tensor in reversed(named.items())}
        return {name: tensor for name, tensor in named.items() if first[id(tensor)] == name}


class Adapters(nn.Module):
    """All adapters of a backbone, by name. `active` names the one that acts, None if none does.

    Args:
        frozen: Names of the backbone's parameters that asked for no gradient before the first one came.
    """

    def __init__(self, frozen: frozenset[str] = frozenset()) -> None:
        super().__init__()
        self.frozen = frozen
        self.named = nn.ModuleDict()
        self.heads = nn.ModuleDict()  # the backbone's own classifier, while an adapter's is in its place
        self.active: str | None = None
        self.kept: list[_NormBase] = []  # norms of the backbone whose running statistics are not tuned
        self.frozen_norms: list[_NormBase] = []  # those in evaluation mode while the backbone was in training mode

    def __getitem__(self, name: str) -> Adapter:
        return self.named[name]  # type: ignore[return-value]

    def train(self, mode: bool = True) -> Adapters:
        """Training mode, of the whole backbone with it, but for batch norms that keep their statistics: these come
        first, as this is the backbone's last module.
        """
        super().train(mode)
        for module in self.kept:
            module.eval()
        return self

    def forward(self, output: Tensor) -> Tensor:
        """Passes on what it gets: in a backbone that is an `nn.Sequential`, this is the last step."""
        return output


def switch(model: nn.Module, name: str | None) -> None:
    """Let another adapter act, or with None the plain backbone; everything else stays as it is.

    The adapter that acts is the one that is tuned, saved and merged. Switching takes less than a millisecond.

    Raises:
        ConfigError: there is no adapter of that name.
    """
    adapters = adapters_of(model)
    if name is not None and name not in adapters.named:
        known = ", ".join(map(repr, adapters.named)) or "none yet"
        raise ConfigError(f"there is no adapter {name!r}; the adapters here are: {known}")
    if adapters.active is not None:
        leaving = adapters[adapters.active]
        for part in leaving.parts:
            part.adapter.disable(part.module, part.output)
        _exchange_heads(model, own=adapters.heads, new=leaving.heads)
        leaving.learning = [parameter.requires_grad for parameter in leaving.parameters()]
        leaving.requires_grad_(False)
        for module in adapters.kept:
            module.training = model.training and all(module is not frozen for frozen in adapters.frozen_norms)
    adapters.active, adapters.kept = name, []
    if name is not None:
        entering = adapters[name]
        parameters = list(entering.parameters())
        for parameter, learns in zip(parameters, entering.learning or [True] * len(parameters), strict=True):
            parameter.requires_grad_(learns)
        _exchange_heads(model, own=entering.heads, new=adapters.heads)
        for part in entering.parts:
            part.adapter.enable(part.module, part.output)
        adapters.kept = _norms_kept(model, entering)
        adapters.frozen_norms = [module for module in adapters.kept if model.training and not module.training]
        for module in adapters.kept:
            module.eval()
    forget_derived(model)


def forget_derived(model: nn.Module) -> None:
    """Invalidate what modules derive from their weights and keep in evaluation mode, such as LeViT's position biases.

    Such modules forget it when training mode begins, so that mode is entered and left again.
    """
    for module in model.modules():
        if type(module).train is not nn.Module.train and not isinstance(module, Adapters) and not module.training:
            modes = {part: part.training for part in module.modules()}
            module.train()
            for part, mode in modes.items():
                part.training = mode


def _norms_kept(model: nn.Module, adapter: Adapter) -> list[_NormBase]:
    """Those whose statistics the adapter does not tune, outside the classifier."""
    outside = (*classifier_names(model), "adapters")
    tuned = {id(part.module) for part in adapter.parts if part.adapter.tunes_statistics}
    return [
        module
        for name, module in model.named_modules()
        if isinstance(module, _NormBase)
        and id(module) not in tuned
        and not any(is_inside(name, other) for other in outside)
    ]


@contextmanager
def plain(model: nn.Module) -> Iterator[None]:
    """Within it, no adapter acts and the backbone has its own weights and classifier."""
    active = active_name(model)
    if active is None:
        yield
        return
    switch(model, None)
    try:
        yield
    finally:
        switch(model, active)


def active_name(model: nn.Module) -> str | None:
    """The name of the adapter that acts, None if none does."""
    adapters = getattr(model, "adapters", None)
    return adapters.active if isinstance(adapters, Adapters) else None


def adapters_of(model: nn.Module) -> Adapters:
    """All adapters that `attach` put there.

    Raises:
        ConfigError: there are none.
    """
    adapters = getattr(model, "adapters", None)
    if not isinstance(adapters, Adapters):
        raise ConfigError(f"{type(model).__name__} has no adapter; call adapters.attach(model, config) first")
    return adapters


def adapter_of(model: nn.Module) -> Adapter:
    """The adapter that acts.

    Raises:
        ConfigError: there is none.
    """
    adapters = adapters_of(model)
    if adapters.active is None:
        raise ConfigError(f"no adapter of {type(model).__name__} is active; call adapters.switch(model, name) first")
    return adapters[adapters.active]


def tuned_tensors(model: nn.Module) -> dict[str, Tensor]:
    """What the active adapter learns, parameters and running statistics, classifier included, by name."""
    return adapter_of(model).tensors(model)


def tuned_parameters(model: nn.Module) -> dict[str, nn.Parameter]:
    """The trainable parameters of the active adapter, classifier included, by name."""
    return {name: tensor for name, tensor in tuned_tensors(model).items() if isinstance(tensor, nn.Parameter)}


def tuned_classes(model: nn.Module) -> int:
    """The number of classes of the present classifier, which may be several layers.

    Raises:
        ConfigError: it has no linear layer or convolution.
    """
    head = model.get_submodule(classifier_names(model)[0])
    found = _classes_of(head)
    if not found:
        raise ConfigError(f"the classifier of {type(model).__name__}, {type(head).__name__}, has no linear layer")
    return found


def _classes_of(head: nn.Module) -> int:
    """How many outputs the last linear layer or convolution of a classifier has, 0 if there is none."""
    layers = [module for module in head.modules() if isinstance(module, (nn.Linear, nn.Conv2d))]
    return len(layers[-1].weight) if layers else 0


def num_adapter_parameters(model: nn.Module) -> int:
    """How many parameters are trainable beside the classifier's, which is how the papers count."""
    heads = tuple(f"{name}/" for name in classifier_names(model))
    return sum(p.numel() for name, p in tuned_parameters(model).items() if not name.startswith(heads))


def _exchange_heads(model: nn.Module, *, own: nn.ModuleDict, new: nn.ModuleDict) -> None:
    """Put the classifiers kept in `own` into the model, and the model's into `new`."""
    for key, head in list(own.items()):
        name = key.replace("/", ".")
        new[key] = model.get_submodule(name)
        replace_classifier(model, name, head)
    own.clear()


def replace_classifier(model: nn.Module, name: str, head: nn.Module) -> None:
    """Put another classifier in the place of the one called `name`."""
    parent, _, child = name.rpartition(".")
    setattr(model.get_submodule(parent), child, head)
    if hasattr(model, "num_classes"):
        model.num_classes = _classes_of(head)  # type: ignore[assignment]


def _key(name: str) -> str:
    """Names of modules must not contain dots, nor be empty."""
    return name.replace(".", "/") or "/"
