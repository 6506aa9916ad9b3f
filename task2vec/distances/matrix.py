"""Distances of embeddings or plain vectors by name."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from task2vec.distances.logarithms import logs
from task2vec.distances.reference import shipped_reference
from task2vec.distances.registry import DISTANCES, Matrix, Options
from task2vec.embedding import TaskEmbedding
from task2vec.errors import DistanceError, EmbeddingError, ProbeMismatchError

Embeddings = Sequence[TaskEmbedding] | npt.ArrayLike
"""Embeddings of one probe, or an array `(n, D)` of positive numbers."""


def distance(
    a: TaskEmbedding | npt.ArrayLike,
    b: TaskEmbedding | npt.ArrayLike,
    name: str = "cosine",
    *,
    alpha: float = 0.15,
    reference: npt.ArrayLike | None = None,
    trivial: npt.ArrayLike | None = None,
) -> float:
    """Distance from `a` to `b`; see `distance_matrix`."""
    rows = [[v] if isinstance(v, TaskEmbedding) else np.asarray(v)[None] for v in (a, b)]
    return float(distance_matrix(rows[0], name, rows[1], alpha=alpha, reference=reference, trivial=trivial)[0, 0])


def distance_matrix(
    embeddings: Embeddings,
    name: str = "cosine",
    others: Embeddings | None = None,
    *,
    alpha: float = 0.15,
    reference: npt.ArrayLike | None = None,
    trivial: npt.ArrayLike | None = None,
) -> Matrix:
    """Distances from each of `embeddings` to each of `others` (or of themselves), float64 `(n, m)`.

    Embeddings of several estimators or penalties are compared with a warning: their Fishers differ by more than their
    tasks do. A store keeps estimators apart.

    Args:
        embeddings: The sources; embeddings of one probe, or an array `(n, D)`.
        name: `cosine` (the paper's d_sym), `asymmetric` (its d_asym, from row to column), `log_cosine`, or another of
            `task2vec.DISTANCES`, each explained in its own file.
        others: The targets; the sources themselves if not given.
        alpha: How much `asymmetric` prefers complex sources; the paper's value is the default.
        reference: `(D,)`, what `log_cosine` subtracts; shipped with the bundled probe, for others see
            `mean_log_embedding`.
        trivial: `(D,)`, or `(n, D)` without `others`: for arrays, what their estimator finds for the trivial task, the
            precision of its prior. Embeddings know their own.

    Raises:
        DistanceError: the name is unknown or gives no distances, `log_cosine` has no reference, the reference is of
            other layers, or some embeddings know the prior of their estimator and others have none.
        ProbeMismatchError: the embeddings come from different probes.
        EmbeddingError: an array is not `(n, D)`, or holds negative, infinite or NaN numbers.
    """
    if name not in DISTANCES:
        raise DistanceError(f"there is no distance {name!r}; choose from {', '.join(sorted(DISTANCES))}")
    of_probes = [*_of_probes(embeddings), *_of_probes(others if others is not None else [])]
    probe = common_probe(of_probes)
    ways = {(e.method, e.classifier.l2): e.task for e in of_probes}
    if len(ways) > 1:
        (one, of_one), (another, of_another) = list(ways.items())[:2]
        warnings.warn(
            f"embedding {of_one!r} was made by {one[0]} with l2={one[1]:g} and {of_another!r} by {another[0]} with "
            f"l2={another[1]:g}, which their distance tells as well as their tasks; embed both alike",
            stacklevel=2,
        )
    a = as_matrix(embeddings)
    b = a if others is None else as_matrix(others)
    if a.shape[1] != b.shape[1]:
        raise EmbeddingError(
            f"vectors of length {a.shape[1]} and {b.shape[1]} have no distance; measure the same layers"
        )
    if reference is None and name == "log_cosine" and probe is not None:
        reference = shipped_reference(probe, a.shape[1])
    if reference is not None and np.shape(reference) != a.shape[1:]:
        raise DistanceError(
            f"a reference of shape {np.shape(reference)} is of other layers than vectors of length {a.shape[1]}; "
            "measure the same layers"
        )
    given = None if trivial is None else np.asarray(trivial, np.float64)
    options = Options(
        alpha,
        reference=None if reference is None else np.asarray(reference, np.float64),
        trivial_a=_trivial(embeddings, a, given),
        trivial_b=_trivial(embeddings if others is None else others, b, given),
    )
    distances = np.asarray(DISTANCES[name](a, b, options))
    if distances.shape != (len(a), len(b)) or np.isnan(distances).any():
        raise DistanceError(
            f"distance {name!r} gave {'NaN' if np.isnan(distances).any() else f'shape {distances.shape}'} for {len(a)} "
            f"and {len(b)} embeddings; mend it, or choose another"
        )
    return distances


def mean_log_embedding(embeddings: Embeddings) -> Matrix:
    """The reference for `log_cosine`: mean log embedding of many tasks under one probe, float64 `(D,)`."""
    return np.asarray(logs(as_matrix(embeddings)).mean(axis=0))


def _trivial(embeddings: Embeddings, values: Matrix, given: Matrix | None) -> Matrix | None:
    """The trivial task as the estimator of each row sees it, `(n, D)`; None if ever smaller constants stand for it."""
    if given is not None:
        return np.broadcast_to(given, values.shape)
    of_probes = _of_probes(embeddings)
    own = [e.trivial for e in of_probes if e.trivial is not None]
    if own and len(own) < len(of_probes):
        raise DistanceError("some embeddings are by an estimator with a prior and some are not; embed them alike")
    return np.asarray(own, np.float64) if own and len(own) == len(values) else None


def _of_probes(embeddings: Embeddings) -> list[TaskEmbedding]:
    """Those that are embeddings; none of an array."""
    if isinstance(embeddings, np.ndarray):
        return []
    return [e for e in embeddings if isinstance(e, TaskEmbedding)]  # type: ignore[union-attr]


def common_probe(embeddings: Sequence[TaskEmbedding]) -> str | None:
    """The fingerprint that all embeddings share, None if there are no embeddings.

    Raises:
        ProbeMismatchError: they come from different probes.
    """
    for other in embeddings[1:]:
        first = embeddings[0]
        if other.probe != first.probe:
            raise ProbeMismatchError(
                f"embedding {first.task!r} comes from probe {first.probe_name} ({first.probe[:8]}) and {other.task!r} "
                f"from {other.probe_name} ({other.probe[:8]}); embed both with the same probe"
            )
    return embeddings[0].probe if embeddings else None


def as_matrix(embeddings: Embeddings) -> Matrix:
    """Embeddings or an array as float64 `(n, D)`.

    Raises:
        EmbeddingError: not `(n, D)`, or not all finite and at least 0.
    """
    if isinstance(embeddings, np.ndarray):
        matrix = np.ascontiguousarray(embeddings, np.float64)
    else:
        rows = [e.fisher if isinstance(e, TaskEmbedding) else e for e in embeddings]  # type: ignore[union-attr]
        lengths = sorted({len(row) for row in rows if isinstance(row, np.ndarray) and row.ndim == 1})
        if len(lengths) > 1:
            raise EmbeddingError(
                f"vectors of length {lengths[0]} and {lengths[1]} have no distance; measure the same layers"
            )
        matrix = np.ascontiguousarray(rows, np.float64)
    if matrix.ndim != 2:
        raise EmbeddingError(f"expected embeddings or an array (n, D), not shape {matrix.shape}")
    if matrix.size and not (matrix.min() >= 0 and matrix.max() < np.inf):  # NaN fails both
        raise EmbeddingError("embeddings must be finite and at least 0; embed the task again")
    return matrix
