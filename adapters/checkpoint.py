"""Save and load what was tuned: the adapter and the classifier, never the backbone.

A checkpoint is a directory with `adapter.safetensors` (tensors) and `adapter.json` (config, backbone, format version).
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from safetensors.torch import save as to_bytes
from torch import Tensor, nn

from adapters.adapter import active_name, adapter_of, forget_derived, plain, tuned_classes, tuned_tensors
from adapters.attach import DEFAULT_NAME, Backbone, attach_chosen, undone_if_failing
from adapters.config import AdapterConfig
from adapters.errors import CheckpointError, ConfigError
from adapters.fingerprint import BackboneId
from adapters.methods.registry import METHODS
from adapters.proof import act_through_weights
from adapters.sites import classifier_names
from task2vec_base import write_atomically

FORMAT_VERSION = 2
TENSORS, METADATA = "adapter.safetensors", "adapter.json"


def save(model: nn.Module, directory: str | Path, *, class_names: tuple[str, ...] = ()) -> None:
    """Write the active adapter of `model` and its classifier to a directory.

    Args:
        model: What `attach` gave.
        directory: Made if it is not there.
        class_names: What the classifier's outputs are called, for whoever loads it.
    """
    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in tuned_tensors(model).items()}
    backbone = BackboneId.of_model(model)
    metadata = {
        "format_version": FORMAT_VERSION,
        "config": adapter_of(model).config.to_dict(),
        "backbone": str(backbone),
        "backbone_fingerprint": backbone.fingerprint,
        "num_classes": tuned_classes(model),
        "through_weights": [part.site for part in adapter_of(model).parts if part.adapter.through_weights],
        "class_names": list(class_names),
    }
    write_atomically(directory / TENSORS, lambda path: path.write_bytes(to_bytes(tensors)))
    write_atomically(directory / METADATA, lambda path: path.write_text(json.dumps(metadata, indent=2) + "\n"))


def load(backbone: Backbone, directory: str | Path, *, name: str = DEFAULT_NAME) -> Backbone:
    """Attach a saved adapter to its backbone, in place, with its classifier; it is active then.

    Args:
        backbone: With the weights that the adapter was tuned on. Other adapters may be attached to it.
        directory: What `save` wrote.
        name: What to call the adapter.

    Raises:
        CheckpointError: nothing is saved there, it is damaged, or it belongs to another backbone.
        ConfigError: the name is taken.
    """
    directory = Path(directory)
    metadata, tensors = read_metadata(directory), _read_tensors(directory)
    _check_backbone(metadata, backbone, directory)
    former = active_name(backbone)
    config = AdapterConfig.from_dict(metadata["config"])
    chosen = {key.removesuffix("/index"): tensor for key, tensor in tensors.items() if key.endswith("/index")}
    chooses = METHODS[config.method].choose is not None
    num_classes = None if _has_such_classifier(backbone, tensors) else metadata["num_classes"]
    attach_chosen(backbone, config, num_classes, chosen if chooses else None, name=name)
    through = metadata.get("through_weights", ())
    act_through_weights(backbone, [part for part in adapter_of(backbone).parts if part.site in through])
    with undone_if_failing(backbone, name, former):
        load_tuned(backbone, tensors, str(directory))
    return backbone


def _has_such_classifier(backbone: nn.Module, tensors: dict[str, Tensor]) -> bool:
    """Whether the backbone's own classifier has the tensors of the saved one; timm may make another kind of new one."""
    with plain(backbone):
        own = {
            f"{name}/{key}": tensor.shape
            for name in classifier_names(backbone)
            for key, tensor in backbone.get_submodule(name).state_dict().items()
        }
    saved = {key: t.shape for key, t in tensors.items() if key.partition("/")[0] in classifier_names(backbone)}
    return own == saved


def _check_backbone(metadata: dict[str, Any], backbone: nn.Module, directory: Path) -> None:
    """Refuse an adapter of other weights."""
    present = BackboneId.of_model(backbone)
    if metadata["backbone_fingerprint"] != present.fingerprint:
        raise CheckpointError(
            f"the adapter in {directory} was tuned on {metadata['backbone']} with weights "
            f"{metadata['backbone_fingerprint'][:8]}, not on this {present} with weights {present.fingerprint[:8]}; "
            "load those weights first"
        )


def start_from(model: nn.Module, directory: str | Path) -> None:
    """Give the active adapter of `model` the weights of one that was tuned on another task.

    The classifier keeps its own weights, since the other task's classes are others.

    Args:
        model: What `attach` gave.
        directory: What `save` wrote, of the same method and sizes, tuned on the same backbone.

    Raises:
        CheckpointError: nothing is saved there, it is of another backbone, or it does not fit.
    """
    directory = Path(directory)
    _check_backbone(read_metadata(directory), model, directory)
    heads = tuple(f"{name}/" for name in classifier_names(model))
    tuned = tuned_tensors(model)
    own = {name: tensor for name, tensor in tuned.items() if name.startswith(heads)}
    others = {name: tensor for name, tensor in _read_tensors(directory).items() if not name.startswith(heads)}
    load_tuned(model, others | own, str(directory))


def _read_tensors(directory: Path) -> dict[str, Tensor]:
    try:
        return load_file(directory / TENSORS)
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"cannot read {directory / TENSORS} ({error}); save the adapter again") from error


def read_metadata(directory: Path) -> dict[str, Any]:
    """What `adapter.json` says.

    Raises:
        CheckpointError: there is none, or it is not ours.
    """
    try:
        metadata: dict[str, Any] = json.loads((directory / METADATA).read_text())
        version = metadata["format_version"]
        AdapterConfig.from_dict(metadata["config"])
        missing = {"num_classes", "backbone", "backbone_fingerprint"} - set(metadata)
        if missing:
            raise KeyError(min(missing))
    except FileNotFoundError as error:
        raise CheckpointError(f"no adapter is saved in {directory}; give what adapters.save wrote") from error
    except (ValueError, KeyError, TypeError, ConfigError) as error:
        raise CheckpointError(f"{directory / METADATA} is damaged ({error}); save the adapter again") from error
    if version != FORMAT_VERSION:
        raise CheckpointError(
            f"{directory} has format version {version}, this package reads {FORMAT_VERSION}; "
            f"{'tune the adapter again' if version < FORMAT_VERSION else 'upgrade the package'}"
        )
    return metadata


@torch.no_grad()
def load_tuned(model: nn.Module, tensors: dict[str, Tensor], where: str) -> None:
    """Fill what the active adapter of `model` learns with `tensors`.

    Raises:
        CheckpointError: a tensor is missing, superfluous, or of another shape.
    """
    tuned = tuned_tensors(model)
    odd = sorted(set(tuned) ^ set(tensors))
    # One number a channel may be written with axes of length 1 after it.
    odd += [name for name in tuned if name in tensors and tuned[name].squeeze().shape != tensors[name].squeeze().shape]
    if odd:
        raise CheckpointError(f"{where} does not fit the model at {odd[0]}; save the adapter again")
    for name, tensor in tuned.items():
        tensor.copy_(tensors[name].reshape(tensor.shape))
    forget_derived(model)
