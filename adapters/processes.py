"""Training in one process, or in several through Hugging Face Accelerate: what differs between the two."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from adapters.errors import ConfigError


class OneProcess:
    """Everything happens here.

    Args:
        device: Where the model is.
        autocast: What it computes in. Gradients of float16 are scaled, since the small ones would become zero.
    """

    rank, count = 0, 1

    def __init__(self, device: torch.device, autocast: torch.dtype | None) -> None:
        self.scaler = torch.amp.GradScaler(device.type, enabled=autocast is torch.float16)

    def wrap(self, model: nn.Module) -> nn.Module:
        """The model to call in training."""
        return model

    def wrap_optimiser(self, optimiser: Optimizer) -> Optimizer:
        """The optimiser to step in training."""
        return optimiser

    def backward(self, loss: Tensor) -> None:
        """Add the loss's gradients."""
        self.scaler.scale(loss).backward()

    def step(self, optimiser: Optimizer, parameters: Sequence[nn.Parameter], largest_norm: float) -> None:
        """Scale the gradients down to a norm, and follow them."""
        self.scaler.unscale_(optimiser)
        nn.utils.clip_grad_norm_(parameters, largest_norm)
        self.scaler.step(optimiser)
        self.scaler.update()

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
        device: Where the model is.
        autocast: What it computes in.

    Raises:
        ConfigError: that is float16, for which the accelerator does not scale gradients.
    """

    def __init__(self, accelerator: Any, device: torch.device, autocast: torch.dtype | None) -> None:
        super().__init__(device, None)  # the accelerator scales itself
        if autocast is torch.float16 and accelerator.scaler is None:
            raise ConfigError(
                "gradients of float16 need a scale, which this accelerator does not keep; make it with "
                "mixed_precision='fp16', or give autocast=torch.bfloat16"
            )
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

    def step(self, optimiser: Optimizer, parameters: Sequence[nn.Parameter], largest_norm: float) -> None:
        """Scale the gradients down to a norm, once fp16's own scale is out of them, and follow them."""
        self.accelerator.clip_grad_norm_(parameters, largest_norm)
        optimiser.step()

    def sum(self, tensor: Tensor) -> Tensor:
        """The sum over all processes, where the accelerator computes: nccl has no way to add up what lies on the
        CPU.
        """
        total: Tensor = self.accelerator.reduce(tensor.detach().to(self.accelerator.device), reduction="sum")
        return total


def processes_of(accelerator: Any, device: torch.device, autocast: torch.dtype | None) -> OneProcess:
    """One process without an accelerator.

    Raises:
        ConfigError: see `SeveralProcesses`.
    """
    return OneProcess(device, autocast) if accelerator is None else SeveralProcesses(accelerator, device, autocast)
