"""A task embedding: one positive number for each filter of the probe, with all one needs to compare or check it."""

from __future__ import annotations

import dataclasses
import json
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save as to_bytes

from task2vec.classifier import Classifier
from task2vec.errors import EmbeddingError
from task2vec.fisher import ESTIMATORS, Convergence
from task2vec.thumbnails import Thumbnail, check_thumbnails
from task2vec_base import write_atomically

FORMAT_VERSION = 1
FINGERPRINT = re.compile(r"[0-9a-f]{32}")
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")


class Layer(NamedTuple):
    """A measured layer: its name in the probe and how many filters it contributes."""

    name: str
    num_filters: int


@dataclasses.dataclass(frozen=True, eq=False)
class TaskEmbedding:
    """The per-filter Fisher of one task under one probe.

    Attributes:
        fisher: float32 `(D,)`, positive: for each filter, the mean over its weights of the diagonal Fisher.
        layers: Where the entries come from, in order; the sizes sum to D.
        probe: The probe's fingerprint. Only embeddings of the same probe can be compared.
        probe_name: The probe's name.
        method: The estimator that made it.
        num_samples: How many images it was measured on.
        num_images: How many images the task has; those measured if not given.
        classes: The task's class names.
        classifier: The head that was fitted on the probe's features, so that anyone can check the Fisher.
        task: The task's name.
        unmeasured: Weights of the probe that no estimator can measure.
        unreadable: Images that were left out because they could not be decoded.
        trivial: float32 `(D,)`, what the estimator finds for the trivial task t0; None stands for ever smaller
            constants.
        convergence: What an iterative estimator reached; None for the others.
        multi_label: Whether an image may be of several classes or none.
        thumbnails: Small pictures of a few of the images; none unless they were asked for.
        images: What tells the images' files from others, 32 hexadecimal digits; empty where nobody looked.
    """

    fisher: npt.NDArray[np.float32]
    layers: tuple[Layer, ...]
    probe: str
    probe_name: str
    method: str
    num_samples: int
    classes: tuple[str, ...]
    classifier: Classifier
    task: str = ""
    unmeasured: tuple[str, ...] = ()
    unreadable: tuple[str, ...] = ()
    trivial: npt.NDArray[np.float32] | None = None
    convergence: Convergence | None = None
    num_images: int = 0
    multi_label: bool = False
    thumbnails: tuple[Thumbnail, ...] = ()
    images: str = ""

    def __post_init__(self) -> None:
        """Refuse vectors that are no Fisher, and names that no probe or estimator has."""
        object.__setattr__(self, "num_images", max(self.num_images, self.num_samples))
        if not FINGERPRINT.fullmatch(self.probe):
            raise EmbeddingError(f"{self.probe[:100]!r} is no probe's fingerprint; embed the task again")
        if self.images and not FINGERPRINT.fullmatch(str(self.images)):
            raise EmbeddingError(f"{str(self.images)[:100]!r} tells no images from others; embed the task again")
        if self.method not in ESTIMATORS:
            known = ", ".join(sorted(ESTIMATORS))
            raise EmbeddingError(f"{self.method[:100]!r} is no estimator here; those of this installation are {known}")
        texts = (
            self.task,
            self.probe_name,
            *self.classes,
            *self.unmeasured,
            *self.unreadable,
            *(n for n, _ in self.layers),
            *(thumbnail.label for thumbnail in self.thumbnails),
        )
        odd = next((text for text in texts if not isinstance(text, str) or _CONTROL.search(text)), None)
        if odd is not None:
            raise EmbeddingError(
                f"{str(odd)[:100]!r} is no name: it holds control characters; rename it and embed again"
            )
        expected = sum(layer.num_filters for layer in self.layers)
        if self.fisher.shape != (expected,):
            raise EmbeddingError(f"embedding of {self.task!r} has shape {self.fisher.shape}; its layers say {expected}")
        wrong = ~np.isfinite(self.fisher) | (self.fisher < 0)
        if wrong.any():
            at = int(wrong.argmax())
            raise EmbeddingError(f"embedding of {self.task!r} has {self.fisher[at]} at entry {at}; embed it again")
        if not self.fisher.any():
            raise EmbeddingError(
                f"the Fisher of {self.task!r} is 0 everywhere: all of its images look the same to the probe, or the "
                "same ones are in every class; look at the images"
            )
        check_thumbnails(self.thumbnails)

    def __repr__(self) -> str:
        return (
            f"TaskEmbedding({self.task!r}, D={len(self.fisher)}, {self.method}, {self.num_samples} images, "
            f"{len(self.classes)} classes, probe={self.probe_name}, norm={self.norm:.3g})"
        )

    @property
    def kind(self) -> tuple[str, str, int]:
        """Probe, estimator and number of filters. Embeddings that share them can be compared: those of another number
        of filters were measured from another layer on.
        """
        return self.probe, self.method, len(self.fisher)

    @property
    def norm(self) -> float:
        """The L1 norm of the Fisher, a measure of the task's difficulty (Achille et al. 2019, section 3.1).

        It is one only where the classifier's penalty is weak (`l2=0.01`); see docs/benchmarks.md.
        """
        return float(self.fisher.sum(dtype=np.float64))

    def save(self, path: str | Path) -> None:
        """Write tensors and metadata to one safetensors file; a failed write leaves no half file."""
        tensors, metadata = embedding_parts(self)
        pictures = {_picture(i): np.frombuffer(t.webp, np.uint8) for i, t in enumerate(self.thumbnails)}
        if pictures:
            metadata["thumbnails"] = [thumbnail.label for thumbnail in self.thumbnails]
        content = to_bytes({**tensors, **pictures}, metadata={"task2vec": json.dumps(metadata)})
        write_atomically(Path(path), lambda whole: whole.write_bytes(content))

    @classmethod
    def load(cls, path: str | Path) -> TaskEmbedding:
        """Read what `save` wrote.

        Raises:
            EmbeddingError: the file is missing, damaged, no embedding, or of a newer format.
        """
        try:
            with safe_open(path, framework="numpy") as file:
                metadata = dict(json.loads((file.metadata() or {})["task2vec"]))
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        except FileNotFoundError as error:
            raise EmbeddingError(f"there is no embedding at {path}; check the path") from error
        except (SafetensorError, OSError, KeyError, ValueError, TypeError) as error:
            raise EmbeddingError(f"{path} is not a task embedding ({error}); make one with task2vec embed") from error
        labels = metadata.pop("thumbnails", [])
        embedding = embedding_from(tensors, metadata, str(path))
        try:
            pictures = tuple(Thumbnail(label, tensors[_picture(i)].tobytes()) for i, label in enumerate(labels))
        except (KeyError, TypeError) as error:
            raise EmbeddingError(f"{path} lacks a thumbnail ({error}); make it again with task2vec embed") from error
        return dataclasses.replace(embedding, thumbnails=pictures)


def _picture(number: int) -> str:
    """Name of the tensor that holds a thumbnail's file in an embedding's file."""
    return f"thumbnail.{number}"


def of_commonest_kind(embeddings: Sequence[TaskEmbedding]) -> list[TaskEmbedding]:
    """Those of the kind that most of them are of: others cannot be compared with these."""
    counts = Counter(embedding.kind for embedding in embeddings)
    commonest = max(counts, key=counts.__getitem__, default=None)
    return [embedding for embedding in embeddings if embedding.kind == commonest]


def embedding_parts(embedding: TaskEmbedding) -> tuple[dict[str, npt.NDArray[np.float32]], dict[str, Any]]:
    """The tensors of an embedding and everything else as plain values for JSON; `embedding_from` reads them.

    Thumbnails are not among them: files and stores keep those apart, so that comparing tasks reads no pictures.
    """
    classifier = embedding.classifier
    tensors = {"fisher": embedding.fisher, "weight": classifier.weight, "bias": classifier.bias}
    if embedding.trivial is not None:
        tensors["trivial"] = embedding.trivial
    held = ("fisher", "classifier", "trivial", "convergence", "thumbnails")
    facts = {f.name: getattr(embedding, f.name) for f in dataclasses.fields(embedding) if f.name not in held}
    if not embedding.images:  # which earlier versions do not know
        del facts["images"]
    if embedding.convergence is not None:
        facts["convergence"] = dataclasses.asdict(embedding.convergence)
    facts |= {"l2": classifier.l2, "accuracy": classifier.accuracy, "format_version": FORMAT_VERSION}
    facts["cross_validated"] = classifier.cross_validated
    return tensors, facts


def embedding_from(tensors: dict[str, npt.NDArray[np.float32]], facts: dict[str, Any], where: str) -> TaskEmbedding:
    """Put an embedding together from its stored parts; `where` names the place in errors."""
    facts = dict(facts)
    version = facts.pop("format_version", None)
    if version != FORMAT_VERSION:
        raise EmbeddingError(f"{where} has format version {version}, this package reads {FORMAT_VERSION}; upgrade it")
    try:
        numbers = facts.pop("l2"), facts.pop("accuracy"), facts.pop("cross_validated", None)
        classifier = Classifier(tensors["weight"], tensors["bias"], *numbers)
        layers = tuple(Layer(*layer) for layer in facts.pop("layers"))
        facts |= {name: tuple(facts[name]) for name in ("classes", "unmeasured", "unreadable")}
        if "convergence" in facts:
            facts["convergence"] = Convergence(**facts["convergence"])
        facts |= {"fisher": tensors["fisher"], "trivial": tensors.get("trivial")}
        return TaskEmbedding(layers=layers, classifier=classifier, **facts)
    except (KeyError, TypeError) as error:
        raise EmbeddingError(f"{where} lacks or adds a field ({error}); make it again with task2vec embed") from error
