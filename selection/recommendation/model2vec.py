"""Model2Vec: experts get a place among the tasks, learned from who was best where.

Indices: t training task, k expert, d entry of the embeddings.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from selection.errors import SelectionError
from task2vec import TaskEmbedding
from task2vec.distances.logarithms import alive
from task2vec.distances.matrix import as_matrix, common_probe
from task2vec.distances.registry import Options
from task2vec.distances.relative import STABILISER

Embeddings = Sequence[TaskEmbedding] | npt.NDArray[np.float64]


@dataclasses.dataclass(frozen=True)
class Model2Vec:
    r"""Experts as vectors in task space (Achille et al. 2019, section 4).

    Expert k stands at $m_k = F_k + b_k$: the embedding $F_k$ of the task it comes from, moved by what its success on
    other tasks says. The probability that it is the best one for a task t falls with its distance,

    $$p(k \mid t) = \mathrm{softmax}_k \left( -d_{asym}(m_k \to t) / \tau \right), \tau \text{ the temperature.}$$

    Attributes:
        experts: Their names.
        vectors: float64 `(K, D)`, m, all above 0.
        offsets: float64 `(K, D)`, b.
        temperature: How fast.
    """

    experts: tuple[str, ...]
    vectors: npt.NDArray[np.float64]
    offsets: npt.NDArray[np.float64]
    temperature: float

    @classmethod
    def fit(
        cls,
        tasks: Embeddings,
        best: Sequence[str],
        *,
        sources: Mapping[str, TaskEmbedding | npt.NDArray[np.float64]] | None = None,
        temperature: float = 0.05,
        penalty: float = 0.1,
        steps: int = 100,
    ) -> Model2Vec:
        """Learn the experts' vectors by maximising the mean log p(best expert | task).

        Args:
            tasks: Embeddings `(T, D)` of one probe and estimator.
            best: The name of the expert that was best on each of them.
            sources: The task each expert comes from. An expert without one, such as a configuration, starts in the
                middle (the geometric mean) of the tasks it was best on.
            temperature: By how much the distance must grow for a probability to fall to a third. It is not learned:
                where the experts start at the wrong places, a high one would explain everything.
            penalty: Strength of the penalty `penalty / 2 * mean_kd c_kd^2` on the moves c = log(m / F), above 0.
            steps: Iterations of L-BFGS.

        Raises:
            SelectionError: tasks and experts differ in number, there are fewer than two experts, or the penalty is 0.
            ProbeMismatchError: the embeddings come from different probes.
        """
        sources = dict(sources or {})
        if len(tasks) != len(best) or not len(best):
            raise SelectionError(f"{len(tasks)} tasks with {len(best)} best experts; give one expert for each task")
        experts = tuple(sorted({*best, *sources}))
        if len(experts) < 2 or penalty <= 0 or temperature <= 0:
            raise SelectionError(
                f"{len(experts)} expert(s), temperature={temperature}, penalty={penalty}: give two, and both above 0"
            )
        common_probe([e for e in (*tasks, *sources.values()) if isinstance(e, TaskEmbedding)])
        t = alive(as_matrix(tasks))
        named = np.array(best)
        start = np.stack(
            [
                alive(_row(sources[expert]))[0]
                if expert in sources
                else np.exp(np.log(t[named == expert]).mean(axis=0))
                for expert in experts
            ]
        )
        moves = _maximise(t, start, np.searchsorted(experts, named), temperature, penalty, steps)
        vectors = start * np.exp(moves)
        return cls(experts, vectors, vectors - start, temperature)

    def probabilities(self, embedding: TaskEmbedding | npt.NDArray[np.float64]) -> dict[str, float]:
        """How likely each expert is the best one for a task, likeliest first."""
        task = torch.from_numpy(alive(_row(embedding)))
        logits = -asymmetric_distances(torch.from_numpy(self.vectors), task)[:, 0] / self.temperature
        found = dict(zip(self.experts, logits.softmax(dim=0).tolist(), strict=True))
        return dict(sorted(found.items(), key=lambda item: -item[1]))

    def pick(self, embedding: TaskEmbedding | npt.NDArray[np.float64]) -> str:
        """The expert that is likeliest the best one for a task."""
        return next(iter(self.probabilities(embedding)))


def asymmetric_distances(sources: Tensor, targets: Tensor) -> Tensor:
    """d_asym from each source `(K, D)` to each target `(T, D)`, `(K, T)`, such that gradients can be taken.

    The same as `task2vec.distance_matrix(sources, "asymmetric", targets)`.
    """
    total = sources[:, None] + targets[None] + STABILISER
    relative = torch.nn.functional.cosine_similarity(sources[:, None] / total, targets[None] / total, dim=2, eps=1e-30)
    inverse = 1 / (sources + STABILISER)
    flatness = torch.nn.functional.cosine_similarity(inverse, torch.ones_like(inverse), dim=1, eps=1e-30)
    return (1 - relative) - Options().alpha * (1 - flatness)[:, None]


def _row(embedding: TaskEmbedding | npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """One embedding as `(1, D)`."""
    return as_matrix([embedding] if isinstance(embedding, TaskEmbedding) else embedding[None])


def _maximise(
    tasks: npt.NDArray[np.float64],
    start: npt.NDArray[np.float64],
    labels: npt.NDArray[np.int64],
    temperature: float,
    penalty: float,
    steps: int,
) -> npt.NDArray[np.float64]:
    """The moves `(K, D)` at which the experts that were best are likeliest."""
    t, base, y = torch.from_numpy(tasks), torch.from_numpy(start), torch.from_numpy(labels)
    moves = torch.zeros_like(base, requires_grad=True)
    optimizer = torch.optim.LBFGS([moves], max_iter=steps, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        optimizer.zero_grad()
        logits = -asymmetric_distances(base * moves.exp(), t).T / temperature
        value = torch.nn.functional.cross_entropy(logits, y) + penalty / 2 * moves.square().mean()
        value.backward()
        return value

    with torch.enable_grad():
        optimizer.step(loss)
    return moves.detach().numpy()
