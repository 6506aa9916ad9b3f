"""Tasks and configurations as numbers, for recommenders that learn.

Indices: t task, c configuration, d filter.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

from adapters import METHODS, AdapterConfig
from selection.evidence.table import TaskFacts
from task2vec import TaskEmbedding, mean_log_embedding
from task2vec.distances.logarithms import logs
from task2vec.distances.of_variances import unit
from task2vec.distances.reference import shipped_reference

Array = npt.NDArray[np.float64]
Described = Callable[[Sequence[TaskFacts]], Array]
"""Tasks as rows of numbers."""

USUAL_SIZE, USUAL_EPOCHS = 8, 20
FEWEST = 8  # tasks whose mean log Fisher under a backbone is what is usual there
WEAK_DECAY = 1e-4  # of weights; less than that changes nothing


def task_directions(tasks: Sequence[TaskFacts]) -> Array:
    """Unit vectors `(T, T)` for tasks: of their embeddings under the backbone that will be tuned, where its Fisher was
    measured on all of them and they are enough to tell what is usual, and otherwise under the probe.
    """
    if len(tasks) >= FEWEST and all(task.has_fisher for task in tasks):
        return backbone_directions(tasks)
    return probe_directions(tasks)


def backbone_directions(tasks: Sequence[TaskFacts]) -> Array:
    """Unit vectors `(T, T)` of the backbone's own log Fisher less its mean over the tasks, from their sketches."""
    sketches = np.array([task.backbone_facts.sketch for task in tasks if task.backbone_facts is not None], np.float64)
    return _in_their_span(unit(sketches - sketches.mean(axis=0)))


def probe_directions(tasks: Sequence[TaskFacts]) -> Array:
    """Unit vectors `(T, T)` whose squared Euclidean distances are twice the tasks' log_cosine distances.

    They are log embeddings without the reference, in the space that the tasks span.
    """
    embeddings = [task.embedding for task in tasks]
    directions = unit(logs(np.stack([e.fisher for e in embeddings]).astype(np.float64)) - reference_of(embeddings))
    return _in_their_span(directions)


def probe_directions_by_depth(tasks: Sequence[TaskFacts]) -> Array:
    """The same `(3, T, T)` for thirds of the embeddings by themselves, from the probe's first filters to its last."""
    embeddings = [task.embedding for task in tasks]
    whole = logs(np.stack([e.fisher for e in embeddings]).astype(np.float64)) - reference_of(embeddings)
    return np.stack([_in_their_span(unit(part)) for part in np.array_split(whole, 3, axis=1)])


def _in_their_span(vectors: Array) -> Array:
    """Vectors `(T, D)` in the space of T dimensions that they span, `(T, T)`: with the same products."""
    left, singular, _ = np.linalg.svd(vectors, full_matrices=False)
    found = np.zeros((len(vectors), len(vectors)))
    found[:, : len(singular)] = left * singular
    return found


def reference_of(embeddings: Sequence[TaskEmbedding]) -> Array:
    """What log_cosine subtracts, `(D,)`: shipped with the probe, or the mean of these embeddings."""
    shipped = shipped_reference(embeddings[0].probe, len(embeddings[0].fisher))
    return mean_log_embedding(embeddings) if shipped is None else shipped


def task_numbers(tasks: Sequence[TaskFacts]) -> Array:
    """What is known of tasks beside their embeddings, `(T, F)`, about 1 large.

    These are the linear probe's accuracy and the logarithms of classes and images; where somebody looked at every task
    through the backbone, also what probes reach at other depths and in place (`BackboneFacts.numbers`).
    """
    looked = [task.backbone_facts for task in tasks if task.backbone_facts is not None]
    if len(looked) < len(tasks):
        return np.stack([_probe_numbers(task) for task in tasks])
    return np.stack([facts.numbers for facts in looked])


def _probe_numbers(task: TaskFacts) -> Array:
    images, classes = task.embedding.num_images, max(2, len(task.embedding.classes))
    return np.array([task.level / 0.25, np.log(classes / 8), np.log(images / 300)])


def config_numbers(configs: Sequence[AdapterConfig]) -> tuple[Array, Array]:
    """Methods `(C, M)` as one of many, and `(C, 7)`: logarithms of size, learning rate over the default, epochs and
    weight decay, whether the adapter leaves out early and late blocks, and whether the task's Fisher places it.
    """
    names = sorted(METHODS)
    methods = np.array([[config.method == name for name in names] for config in configs], np.float64)
    numbers = []
    for config in configs:
        size = config.size or USUAL_SIZE
        rate = np.log(config.learning_rate / METHODS[config.method].defaults["learning_rate"])
        blocks = config.blocks
        places = [0.0, 0.0] if blocks is None else [float(min(blocks) > 0), float(min(blocks) == 0)]
        decay = np.log10(max(config.weight_decay, WEAK_DECAY) / WEAK_DECAY) / 2
        placed = float(config.placement is not None)
        numbers.append([np.log(size / USUAL_SIZE), rate, np.log(config.epochs / USUAL_EPOCHS), decay, *places, placed])
    return methods, np.array(numbers)
