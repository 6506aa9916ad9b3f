"""What can go wrong for a user of `adapters`, each a class of its own under one parent."""


class AdapterError(Exception):
    """Parent of every error this package raises on purpose: one sentence that says what, where and what to do."""


class ConfigError(AdapterError):
    """A setting is unknown, out of range, or not one of the method's."""


class IncompatibleError(AdapterError):
    """The method makes no sense on this backbone."""


class MergeError(AdapterError):
    """The adapter cannot be folded into the backbone's weights."""


class CheckpointError(AdapterError):
    """Saved weights are missing, damaged, or of another backbone."""


class TrainingError(AdapterError):
    """The data cannot be learned from, or training went wrong."""


class StopTraining(Exception):  # noqa: N818 it is no error
    """Raised by a callback of `adapters.fit` to end the training after this epoch."""
