"""Training in one process, or in several through Hugging Face Accelerate: what differs between the two."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer


class OneProcess:
    """Everything happens here."""

    rank, count = 0, 1

    def wrap(self, model: nn.Module) -> nn.Module:
        """The model to call in training."""
        return model

    def wrap_optimiser(self, optimiser: Optimizer) -> Optimizer:
        """The optimiser to step in training."""
        return optimiser

    def backward(self, loss: Tensor) -> None:
        """Add the loss's gradients."""
        loss.backward()

    def clip(self, parameters: Sequence[nn.Parameter], largest_norm: float) -> None:
        """Scale the gradients down to a norm."""
        nn.utils.clip_grad_norm_(parameters, largest_norm)

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

    def wrap_optimiser(self, optimiser: Optimizer) -> Optimizer:
        """The optimiser to step in training: under fp16 it takes the scale out of the gradients first."""
        wrapped: Optimizer = self.accelerator.prepare_optimizer(optimiser)
        return wrapped

    def backward(self, loss: Tensor) -> None:
        """Add the loss's gradients, averaged over the processes."""
        self.accelerator.backward(loss)

    def clip(self, parameters: Sequence[nn.Parameter], largest_norm: float) -> None:
        """Scale the gradients down to a norm, once fp16's own scale is out of them."""
        self.accelerator.clip_grad_norm_(parameters, largest_norm)

    def sum(self, tensor: Tensor) -> Tensor:
        """The sum over all processes, where the accelerator computes: nccl has no way to add up what lies on the
        CPU.
        """
        total: Tensor = self.accelerator.reduce(tensor.detach().to(self.accelerator.device), reduction="sum")
        return total


def processes_of(accelerator: Any) -> OneProcess:
    """One process without an accelerator."""
    return OneProcess() if accelerator is None else SeveralProcesses(accelerator)
