"""What a probe takes in, and which of its layers see it."""

from task2vec.inputs.batch_size import choose_batch_size
from task2vec.inputs.probe_inputs import ProbeInputs

__all__ = ["ProbeInputs", "choose_batch_size"]
