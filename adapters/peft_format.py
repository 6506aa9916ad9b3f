"""LoRA in the file format of Hugging Face PEFT: `adapter_config.json` and `adapter_model.safetensors`.

    PEFT computes  y = W x + (lora_alpha / r) * B A x  at each of its target modules.

Its tensors are called `base_model.model.MODULE.lora_A.weight` and `.lora_B.weight`; what was trained beside them, such
as the classifier, `base_model.model.MODULE.weight`.
"""

from __future__ import annotations

import json
import math
import re
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from safetensors.torch import save as to_bytes
from torch import Tensor, nn

from adapters.adapter import active_name, adapter_of, tuned_tensors
from adapters.attach import DEFAULT_NAME, Backbone, attach, undone_if_failing
from adapters.checkpoint import load_tuned
from adapters.config import AdapterConfig
from adapters.errors import CheckpointError
from adapters.fingerprint import BackboneId
from adapters.methods.lora import LoraSettings, LowRank, LowRankConv
from adapters.sites import classifier_names
from task2vec_base import write_atomically

CONFIG, TENSORS = "adapter_config.json", "adapter_model.safetensors"
# PEFT's ways to begin that leave the backbone's weights alone.
PLAIN_STARTS = (True, False, None, "gaussian", "eva", "orthogonal")
PREFIX, DOWN, UP = "base_model.model.", ".lora_A.weight", ".lora_B.weight"


@torch.no_grad()
def to_peft(model: nn.Module, directory: str | Path) -> None:
    """Write the active LoRA adapter and its classifier for `peft.PeftModel.from_pretrained(timm_model, directory)`.

    An update of queries and values becomes one of twice the rank of the whole query-key-value layer.

    Raises:
        CheckpointError: the active adapter is not LoRA, or acts where PEFT's would not.
    """
    adapter = adapter_of(model)
    if adapter.config.method != "lora":
        raise CheckpointError(f"only lora can be written for PEFT, not {adapter.config.method}; use adapters.save")
    read = [part.site for part in adapter.parts if part.adapter.through_weights]
    if read:
        raise CheckpointError(
            f"{type(model).__name__} reads the weight of {read[0]} without calling it, so that PEFT's LoRA would have "
            "no effect there; use adapters.save, or merge"
        )
    _check_convolutions([(part.site, part.module) for part in adapter.parts])
    tensors: dict[str, Tensor] = {}
    ranks = {}
    for part in adapter.parts:
        if isinstance(part.adapter, LowRankConv):
            down, up = part.adapter.down.weight, part.adapter.up[..., None, None]
        else:
            assert isinstance(part.adapter, LowRank)
            down, up = part.adapter.factors()
        tensors |= {f"{PREFIX}{part.site}{DOWN}": down, f"{PREFIX}{part.site}{UP}": up}
        ranks[part.site] = len(down)
    heads = classifier_names(model)
    for name in heads:
        for tensor_name, tensor in model.get_submodule(name).named_parameters():
            tensors[f"{PREFIX}{name}.{tensor_name}"] = tensor
    assert isinstance(adapter.config.settings, LoraSettings)
    scale = adapter.config.settings.scale
    rank = max(ranks.values())
    config = {
        "peft_type": "LORA",
        "base_model_name_or_path": str(BackboneId.of_model(model)),
        "r": rank,
        "lora_alpha": scale * rank,
        "rank_pattern": {_alone(name, ranks): own for name, own in ranks.items() if own != rank},
        "alpha_pattern": {_alone(name, ranks): scale * own for name, own in ranks.items() if own != rank},
        "target_modules": list(ranks),
        "modules_to_save": list(heads),
        "bias": "none",
        "lora_dropout": 0.0,
        "inference_mode": True,
    }
    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    plain = {name: tensor.detach().cpu().clone().contiguous() for name, tensor in tensors.items()}
    write_atomically(directory / TENSORS, lambda path: path.write_bytes(to_bytes(plain, {"format": "pt"})))
    write_atomically(directory / CONFIG, lambda path: path.write_text(json.dumps(config, indent=2) + "\n"))


def from_peft(backbone: Backbone, directory: str | Path, *, name: str = DEFAULT_NAME) -> Backbone:
    """Attach a LoRA adapter that PEFT saved for this timm model, in place, with its classifier if that was saved.

    Ranks that differ between modules become `sizes`; scales become part of the tensors, so that `scale` is 1.

    Raises:
        CheckpointError: nothing is saved there, it is not LoRA, or it does not fit the backbone.
        ConfigError: the name is taken.
    """
    directory = Path(directory)
    config = _read_config(directory)
    try:
        tensors = load_file(directory / TENSORS)
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"cannot read {directory / TENSORS} ({error}); save it with PEFT again") from error
    updates, others = _sort(tensors, directory)
    modules = dict(backbone.named_modules())
    heads = classifier_names(backbone)
    classifier = {"/".join(name.rsplit(".", 1)): tensor for name, tensor in others.items()}
    unknown = sorted(set(updates) - set(modules)) + [key for key in classifier if key.rpartition("/")[0] not in heads]
    if unknown:
        raise CheckpointError(f"{directory} has {unknown[0]}, which {BackboneId.of_model(backbone)} has no LoRA for")
    _check_convolutions([(module, modules[module]) for module in updates])
    rank = max(len(down) for down, _ in updates.values())
    tensors = dict(classifier)
    for module, (down, up) in updates.items():
        key = f"{module}/down.weight" if isinstance(modules[module], nn.Conv2d) else f"{module}/down"
        tensors[key] = down
        tensors[f"{module}/up"] = up.flatten(1) * _scale(config, module, len(down))
    num_classes = len(classifier[f"{heads[0]}/weight"]) if classifier else None
    former = active_name(backbone)
    ranks = {module: len(down) for module, (down, _) in updates.items() if len(down) != rank}
    lora = AdapterConfig("lora", rank=rank, sizes=ranks or None, scale=1.0, targets=tuple(updates))
    attach(backbone, lora, num_classes, name=name)
    if not classifier:
        tensors |= {key: t.clone() for key, t in tuned_tensors(backbone).items() if key.rpartition("/")[0] in heads}
    with undone_if_failing(backbone, name, former):
        load_tuned(backbone, tensors, str(directory))
    return backbone


def _check_convolutions(sites: Iterable[tuple[str, nn.Module]]) -> None:
    """Refuse convolutions of which PEFT's own update, padded by zeros and not dilated, would be another one."""
    for name, module in sites:
        if isinstance(module, nn.Conv2d) and (module.padding_mode != "zeros" or set(module.dilation) != {1}):
            raise CheckpointError(
                f"PEFT's LoRA of {name} would be another one, as it knows no padding mode and no dilation; leave the "
                "layer out, or use adapters.save"
            )


def _alone(name: str, names: Iterable[str]) -> str:
    """A pattern that fits a module and no other: PEFT takes a name for the end of one."""
    return f"^{name}" if any(other.endswith(f".{name}") for other in names) else name


def _read_config(directory: Path) -> dict[str, Any]:
    try:
        config: dict[str, Any] = json.loads((directory / CONFIG).read_text())
        method = config["peft_type"]
    except FileNotFoundError as error:
        raise CheckpointError(f"no PEFT adapter is saved in {directory}; give what save_pretrained wrote") from error
    except (ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{directory / CONFIG} is damaged ({error}); save it with PEFT again") from error
    if method != "LORA" or config.get("use_dora"):
        raise CheckpointError(
            f"{directory} holds {'DoRA' if method == 'LORA' else method}; only plain LoRA can be read"
        )
    start = config.get("init_lora_weights", True)
    if start not in PLAIN_STARTS:
        raise CheckpointError(
            f"{directory} began as {start}, which changed the backbone's weights too; convert it to plain LoRA by "
            "PEFT's path_initial_model_for_weight_conversion"
        )
    return config


def _sort(tensors: dict[str, Tensor], directory: Path) -> tuple[dict[str, tuple[Tensor, Tensor]], dict[str, Tensor]]:
    """The two factors of each module, and all other tensors."""
    factors: dict[str, dict[str, Tensor]] = defaultdict(dict)
    others = {}
    for key, tensor in tensors.items():
        name = key.removeprefix(PREFIX)
        ending = next((ending for ending in (DOWN, UP) if name.endswith(ending)), None)
        if ending is None:
            others[name] = tensor
        else:
            factors[name.removesuffix(ending)][ending] = tensor
    half = [name for name, pair in factors.items() if len(pair) < 2]
    if half or not factors:
        raise CheckpointError(f"{directory} lacks a factor of {half[0] if half else 'every module'}; save it again")
    return {name: (pair[DOWN], pair[UP]) for name, pair in factors.items()}, others


def _scale(config: dict[str, Any], module: str, rank: int) -> float:
    """What PEFT multiplies the update of a module by."""
    patterns = config.get("alpha_pattern") or {}
    alphas = [alpha for pattern, alpha in patterns.items() if re.fullmatch(rf"(.*\.)?({pattern})", module)]
    alpha = alphas[0] if alphas else config.get("lora_alpha", 8)
    return float(alpha) / (math.sqrt(rank) if config.get("use_rslora") else rank)
