"""Where a backbone would have to move for a task: its own Fisher, per filter and per layer, before it is tuned.

The same measurement as a task embedding, of the network that will be tuned instead of a probe that all tasks share.
`adapters.allocate(config, sensitivity.mass, backbone, parameters=...)` puts parameters where it is large.

l: layer, f: filter of it, n_l: the weights of one filter.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save as to_bytes
from timm.data import create_transform, resolve_data_config
from timm.layers import to_2tuple
from torch import Tensor, nn

from task2vec.embed import embed
from task2vec.embedding import Layer
from task2vec.errors import EmbeddingError, ProbeError
from task2vec.plan import DEFAULT_METHOD
from task2vec.probe import Probe
from task2vec_base import write_atomically

if TYPE_CHECKING:
    from task2vec import Task

FORMAT_VERSION = 1


@dataclasses.dataclass(frozen=True, eq=False)
class Sensitivity:
    """The Fisher of a backbone on a task.

    Attributes:
        fisher: float32 `(D,)`: for each filter the mean over its weights, as in a task embedding.
        layers: Where the entries come from, in order, by the names of the backbone's modules; the sizes sum to D.
        weights: For each layer, n_l.
        backbone: The backbone's name.
        fingerprint: Hash of its architecture, weights and preprocessing.
        method: The estimator.
        num_samples: How many images it was measured on.
        task: The task's name.
        unmeasured: Weights that cannot be measured.
    """

    fisher: npt.NDArray[np.float32]
    layers: tuple[Layer, ...]
    weights: tuple[int, ...]
    backbone: str
    fingerprint: str
    method: str
    num_samples: int
    task: str = ""
    unmeasured: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Refuse vectors that are no Fisher."""
        filters = sum(layer.num_filters for layer in self.layers)
        if self.fisher.shape != (filters,) or len(self.weights) != len(self.layers):
            raise EmbeddingError(
                f"the sensitivity to {self.task!r} has {self.fisher.shape} numbers and weights of {len(self.weights)} "
                f"layers; its {len(self.layers)} layers have {filters} filters"
            )
        if not np.isfinite(self.fisher).all() or (self.fisher < 0).any():
            raise EmbeddingError(f"the sensitivity to {self.task!r} holds numbers that are no Fisher; measure it again")

    @property
    def filters(self) -> dict[str, npt.NDArray[np.float32]]:
        """`(num_filters,)` for each layer, by its name."""
        ends = np.cumsum([layer.num_filters for layer in self.layers])
        parts = np.split(self.fisher, ends[:-1])
        return {layer.name: part for layer, part in zip(self.layers, parts, strict=True)}

    @property
    def mass(self) -> dict[str, float]:
        r"""$M_l = n_l \sum_f F_{lf}$, the sum over all weights of a layer, by its name."""
        sums = (float(part.sum(dtype=np.float64)) for part in self.filters.values())
        return {layer.name: n * s for layer, n, s in zip(self.layers, self.weights, sums, strict=True)}

    @property
    def shares(self) -> dict[str, float]:
        """$M_l$ over the sum of all layers', by name."""
        mass = self.mass
        total = sum(mass.values())
        return {name: value / total for name, value in mass.items()}

    @property
    def mean(self) -> dict[str, float]:
        """The Fisher of a single weight of each layer on average, by name."""
        return {name: float(part.mean(dtype=np.float64)) for name, part in self.filters.items()}

    def save(self, path: str | Path) -> None:
        """Write one safetensors file; a failed write leaves no half file."""
        facts = {f.name: getattr(self, f.name) for f in dataclasses.fields(self) if f.name != "fisher"}
        facts["format_version"] = FORMAT_VERSION
        content = to_bytes({"fisher": self.fisher}, metadata={"sensitivity": json.dumps(facts)})
        write_atomically(Path(path), lambda whole: whole.write_bytes(content))

    @classmethod
    def load(cls, path: str | Path) -> Sensitivity:
        """Read what `save` wrote.

        Raises:
            EmbeddingError: the file is missing, damaged, no sensitivity, or of another format.
        """
        try:
            with safe_open(path, framework="numpy") as file:
                facts = json.loads((file.metadata() or {})["sensitivity"])
                fisher = file.get_tensor("fisher")
            if facts.pop("format_version") != FORMAT_VERSION:
                raise EmbeddingError(f"{path} has another format version than {FORMAT_VERSION}; measure it again")
            facts["layers"] = tuple(Layer(*layer) for layer in facts["layers"])
            facts |= {name: tuple(facts[name]) for name in ("weights", "unmeasured")}
            return cls(fisher=fisher, **facts)
        except FileNotFoundError as error:
            raise EmbeddingError(f"there is no sensitivity at {path}; check the path") from error
        except (SafetensorError, OSError, KeyError, TypeError, ValueError) as error:
            raise EmbeddingError(f"{path} is no sensitivity ({error}); measure it again") from error


def sensitivity(
    task: Task,
    backbone: Probe | nn.Module,
    method: str = DEFAULT_METHOD,
    *,
    transform: Callable[[Any], Tensor] | None = None,
    classifier: str | None = None,
    **settings: Any,
) -> Sensitivity:
    """Measure a backbone's Fisher on a task; the backbone is left as it is.

    Args:
        task: The labelled images.
        backbone: What will be tuned: a timm model, or a probe around any network.
        method: An estimator, as for `embed`. `empirical`, at the dataset's labels, is the squared gradient of the loss,
            image by image, by which SPT places its parameters (He et al. 2023, https://arxiv.org/abs/2303.08566).
        transform: From an image to the backbone's input; that of its pretraining if not given.
        classifier: The classifier's name among `backbone.named_modules()`; that which timm names if not given.
        settings: Further ones of `embed`, such as `seed`, `max_samples` and `l2`.

    Raises:
        ProbeError: the network is none of timm's, and neither a probe nor given with its classifier and transform.
        TaskError: all images are of one class.
    """
    module = backbone.module if isinstance(backbone, Probe) else backbone
    training = {own: own.training for own in module.modules()}
    asking = {parameter: parameter.requires_grad for parameter in module.parameters()}
    try:
        probe = backbone if isinstance(backbone, Probe) else _probe_of(backbone, transform, classifier)
        found = embed(task, probe, method, **settings)
    finally:
        for own, mode in training.items():
            own.training = mode
        for parameter, asked in asking.items():
            parameter.requires_grad_(asked)
    return Sensitivity(
        fisher=found.fisher,
        layers=found.layers,
        weights=tuple(probe.layers[layer.name].weight[0].numel() for layer in found.layers),
        backbone=probe.name,
        fingerprint=probe.fingerprint,
        method=method,
        num_samples=found.num_samples,
        task=found.task,
        unmeasured=found.unmeasured,
    )


def _probe_of(model: nn.Module, transform: Callable[[Any], Tensor] | None, classifier: str | None) -> Probe:
    """A network as a probe, one of timm's at the size of image that it takes."""
    config: dict[str, Any] = getattr(model, "pretrained_cfg", None) or {}
    if "classifier" not in config and (classifier is None or transform is None):
        raise ProbeError(
            f"{type(model).__name__} is none of timm's models; give task2vec.Probe(model, classifier, transform)"
        )
    if transform is None:
        data = resolve_data_config({}, model=model)
        channels, *size = data["input_size"]
        # The size that a model was made for is an attribute of the model itself or of what embeds its patches.
        own = next((size for part in model.modules() if (size := getattr(part, "img_size", None))), size)
        data["input_size"] = channels, *to_2tuple(own)
        transform = create_transform(**data, is_training=False)
    named = classifier or config["classifier"]
    name = str(config.get("architecture") or type(model).__name__)
    return Probe(model, named if isinstance(named, str) else named[0], transform, name=name)
