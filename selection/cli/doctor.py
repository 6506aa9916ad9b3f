"""`task2vec doctor`: what is installed, where can be computed, and which weights are at hand."""

from __future__ import annotations

import importlib.metadata
import os
import platform
from pathlib import Path

import torch

import adapters
import task2vec
from selection.cli import options as o
from selection.cli.output import print_facts, print_json
from task2vec import Compute

PACKAGES = ("task2vec-select", "torch", "torchvision", "timm", "numpy", "SQLAlchemy", "safetensors", "huggingface_hub")
OPTIONAL = ("peft", "accelerate", "optuna", "onnxruntime", "psycopg", "pyarrow", "datasets")


def doctor(as_json: o.Json = False) -> None:
    """Say what this machine has: versions, devices, weights."""
    compute = Compute()
    facts = {
        "python": platform.python_version(),
        **{name: _version(name) or "missing" for name in PACKAGES},
        **{name: _version(name) or "not installed (optional)" for name in OPTIONAL},
        "device": str(compute.torch_device),
        "precision": "as the weights" if compute.autocast_dtype is None else str(compute.autocast_dtype),
        "devices": ", ".join(_devices()),
        "cores": str(os.cpu_count()),
        "torch threads": str(torch.get_num_threads()),
        "weights' cache": str(_cache()),
        "cached models": ", ".join(_cached_models()) or "none",
        "bundled probe": task2vec.DEFAULT_PROBE,
        "bundled backbone": adapters.DEFAULT_BACKBONE,
    }
    if as_json:
        print_json(facts)
    else:
        print_facts("This machine", facts)


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _devices() -> list[str]:
    found = ["cpu"]
    if torch.accelerator.is_available():
        kind = torch.accelerator.current_accelerator()
        assert kind is not None  # there is one
        found += [f"{kind.type}:{number}" for number in range(torch.accelerator.device_count())]
    return found


def _cache() -> Path:
    from huggingface_hub.constants import HF_HUB_CACHE

    return Path(HF_HUB_CACHE)


def _cached_models() -> list[str]:
    """timm's models whose weights are at hand without a network."""
    folders = _cache().glob("models--timm--*") if _cache().exists() else ()
    return sorted(folder.name.removeprefix("models--timm--") for folder in folders)
