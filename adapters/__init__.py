"""Tune timm models with few parameters, and fold what was tuned back into a plain model.

config = adapters.AdapterConfig(method="lora", rank=8)
model = adapters.attach(timm.create_model("vit_tiny_patch16_224", pretrained=True), config, num_classes=5)
adapters.fit(model, train, val)
plain = adapters.merge(model)
"""

try:
    import torchvision as _torchvision  # noqa: F401

    from adapters import namesake as _namesake  # noqa: F401  before anything that it may have overwritten
except (RuntimeError, OSError) as _error:
    raise ImportError(
        f"torchvision does not fit the installed torch ({_error}); install a matching pair from one place with: "
        "pip install --force-reinstall torch torchvision"
    ) from _error

from adapters.adapter import adapter_of, num_adapter_parameters, switch, tuned_parameters, tuned_tensors
from adapters.attach import attach, detach
from adapters.backbones import DEFAULT_BACKBONE
from adapters.checkpoint import load, read_metadata, save
from adapters.config import AdapterConfig, all_settings
from adapters.errors import (
    AdapterError,
    CheckpointError,
    ConfigError,
    IncompatibleError,
    MergeError,
    StopTraining,
    TrainingError,
)
from adapters.evaluation import evaluate
from adapters.fingerprint import BackboneId, backbone_fingerprint
from adapters.logs import LOGS, training_log
from adapters.merge import merge
from adapters.methods import METHODS
from adapters.metrics import Metrics
from adapters.peft_format import from_peft, to_peft
from adapters.placement import RULES, allocate, fisher_scores, gradient_scores
from adapters.training import FitResult, fit

__all__ = [
    "DEFAULT_BACKBONE",
    "LOGS",
    "METHODS",
    "RULES",
    "Metrics",
    "AdapterConfig",
    "AdapterError",
    "BackboneId",
    "CheckpointError",
    "ConfigError",
    "FitResult",
    "IncompatibleError",
    "MergeError",
    "StopTraining",
    "TrainingError",
    "adapter_of",
    "all_settings",
    "allocate",
    "attach",
    "backbone_fingerprint",
    "detach",
    "evaluate",
    "fisher_scores",
    "fit",
    "from_peft",
    "gradient_scores",
    "load",
    "merge",
    "num_adapter_parameters",
    "read_metadata",
    "save",
    "switch",
    "to_peft",
    "training_log",
    "tuned_parameters",
    "tuned_tensors",
]
