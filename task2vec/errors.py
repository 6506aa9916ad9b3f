"""What can go wrong for a user of `task2vec`, each a class of its own under one parent."""


class Task2VecError(Exception):
    """Parent of every error this package raises on purpose: one sentence that says what, where and what to do."""


class TaskError(Task2VecError):
    """The images or labels cannot make a task."""


class TaskWarning(UserWarning):
    """Something in a data set is passed over that its owner may have meant to be used."""


class UnreadableImageError(TaskError):
    """One image cannot be decoded, or too many of a task cannot."""


class ComputeError(Task2VecError):
    """The device or the way to compute is unknown or not there."""


class WeightsError(Task2VecError):
    """The weights of a model cannot be had or do not fit."""


class ProbeError(Task2VecError):
    """The network cannot serve as a probe."""


class EmbeddingError(Task2VecError):
    """An embedding file or a set of embeddings cannot be used."""


class ProbeMismatchError(EmbeddingError):
    """Embeddings of different probes live in different spaces and have no distance."""


class DistanceError(Task2VecError):
    """The distance is unknown or lacks something it needs."""
