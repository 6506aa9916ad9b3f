"""Task2Vec: a labelled image dataset becomes a vector, and datasets can be compared.

probe = task2vec.load_probe()
task = task2vec.Task.from_folder("flowers/train")
embedding = task2vec.embed(task, probe)
task2vec.distance(embedding, other, "cosine")
"""

try:
    import torchvision as _torchvision  # noqa: F401
except (RuntimeError, OSError) as _error:
    raise ImportError(
        f"torchvision does not fit the installed torch ({_error}); install a matching pair from one place with: "
        "pip install --force-reinstall torch torchvision"
    ) from _error

from typing import TYPE_CHECKING, Any

from task2vec.backbones import DEFAULT_PROBE
from task2vec.classifier import Classifier
from task2vec.compute import Compute
from task2vec.distances import DISTANCES, distance, distance_matrix
from task2vec.distances.matrix import mean_log_embedding
from task2vec.embed import embed
from task2vec.embedding import Layer, TaskEmbedding
from task2vec.errors import (
    ComputeError,
    DistanceError,
    EmbeddingError,
    ProbeError,
    ProbeMismatchError,
    Task2VecError,
    TaskError,
    TaskWarning,
    UnreadableImageError,
    WeightsError,
)
from task2vec.fisher import ESTIMATORS, Convergence, VariationalConfig
from task2vec.plan import DEFAULT_METHOD
from task2vec.probe import Probe, load_probe
from task2vec.sensitivity import Sensitivity, sensitivity
from task2vec.tasks import Splits, Task, read_splits
from task2vec.thumbnails import Thumbnail

if TYPE_CHECKING:
    from task2vec.plots import plot_distances, plot_map

__all__ = [
    "DEFAULT_METHOD",
    "DEFAULT_PROBE",
    "DISTANCES",
    "ESTIMATORS",
    "Classifier",
    "Compute",
    "ComputeError",
    "Convergence",
    "DistanceError",
    "EmbeddingError",
    "Layer",
    "Probe",
    "ProbeError",
    "ProbeMismatchError",
    "Sensitivity",
    "Splits",
    "Task",
    "Task2VecError",
    "TaskEmbedding",
    "TaskError",
    "TaskWarning",
    "Thumbnail",
    "UnreadableImageError",
    "VariationalConfig",
    "WeightsError",
    "distance",
    "distance_matrix",
    "embed",
    "load_probe",
    "mean_log_embedding",
    "plot_distances",
    "plot_map",
    "read_splits",
    "sensitivity",
]


def __getattr__(name: str) -> Any:
    """Plotting is imported on first use: matplotlib takes longer than all else."""
    if name in ("plot_distances", "plot_map"):
        from task2vec import plots

        return getattr(plots, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
