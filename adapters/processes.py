"""Training in one process, or in several through Hugging Face Accelerate: what differs between the two."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn


class OneProcess:
    """Everything happens here."""

    rank, count = 0, 1

    def wrap(self, model: nn.Module) -> nn.Module:
        """The model to call in training."""
        return model

    def backward(self, loss: Tensor) -> None:
        """Add the loss's gradients."""
        loss.backward()

    def sum(self, tensor: Tensor) -> Tensor:
        """The sum over all processes."""
        return tensor

    def share(self, indices: Tensor) -> Tensor:
        """Which of some images are this process's."""
        return indices[self.rank :: self.count]


class SeveralProcesses(OneProcess):
    """Each process takes every `count`-th image; gradients are averaged.

    Args:
        accelerator: An `accelerate.Accelerator`.
    """

    def __init__(self, accelerator: Any) -> None:
        self.accelerator = accelerator
        self.rank, self.count = accelerator.process_index, accelerator.num_processes

    def wrap(self, model: nn.Module) -> nn.Module:
        """The model to call in training."""
        wrapped: nn.Module = self.accelerator.prepare_model(model)
        return wrapped

    def backward(self, loss: Tensor) -> None:
        """Add the loss's gradients, averaged over the processes."""
        self.accelerator.backward(loss)

    def sum(self, tensor: Tensor) -> Tensor:
        """The sum over all processes."""
        total: Tensor = self.accelerator.reduce(tensor.detach(), reduction="sum")
        return total


def processes_of(accelerator: Any) -> OneProcess:
    """One process without an accelerator."""
    return OneProcess() if accelerator is None else SeveralProcesses(accelerator)
