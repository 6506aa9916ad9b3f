"""What several processes do differently, with an accelerator that computes on a device this machine need not have."""

import pytest
import torch
from torch import nn

from adapters import ConfigError
from adapters.processes import OneProcess, SeveralProcesses


class OnAnotherDevice:
    """Stands for `accelerate.Accelerator` on GPUs: it adds up nothing that lies on the CPU, as nccl does not."""

    device, process_index, num_processes, scaler = torch.device("meta"), 0, 2, None

    def __init__(self):
        self.done = []

    def reduce(self, tensor, reduction):
        assert tensor.device == self.device, "nccl has no backend for CPU tensors"
        assert reduction == "sum"
        return tensor

    def prepare_optimizer(self, optimiser):
        self.done.append("prepared")
        return optimiser

    def clip_grad_norm_(self, parameters, largest_norm):
        self.done.append(("clipped", len(parameters), largest_norm))


def test_what_is_summed_lies_where_the_accelerator_computes():
    processes = SeveralProcesses(OnAnotherDevice(), torch.device("meta"), None)
    assert processes.sum(torch.zeros(3, dtype=torch.long)).device.type == "meta"


def test_gradients_are_clipped_and_stepped_by_the_accelerator_which_knows_their_scale():
    accelerator = OnAnotherDevice()
    processes = SeveralProcesses(accelerator, torch.device("meta"), None)
    parameter = nn.Parameter(torch.ones(2))
    parameter.grad = torch.ones(2)
    optimiser = processes.wrap_optimiser(torch.optim.SGD([parameter], lr=0.5))
    processes.step(optimiser, [parameter], 1.0)
    assert accelerator.done == ["prepared", ("clipped", 1, 1.0)]
    torch.testing.assert_close(parameter.detach(), torch.full((2,), 0.5))


def test_an_accelerator_that_does_not_scale_the_gradients_of_float16_is_refused():
    with pytest.raises(ConfigError, match="mixed_precision='fp16'"):
        SeveralProcesses(OnAnotherDevice(), torch.device("meta"), torch.float16)


def test_small_gradients_of_float16_survive_and_those_that_overflow_are_no_step():
    layer = nn.Linear(1, 1)
    processes = OneProcess(torch.device("cpu"), torch.float16)
    optimiser = torch.optim.SGD(layer.parameters(), lr=1e6)
    before = layer.weight.detach().clone()

    def gradient_of(factor):
        optimiser.zero_grad()
        with torch.autocast("cpu", torch.float16):
            loss = layer(torch.ones(1, 1)).float().sum() * factor
        processes.backward(loss)
        processes.step(optimiser, list(layer.parameters()), 1e9)
        return layer.weight.detach() - before

    torch.testing.assert_close(gradient_of(1e-8), torch.full((1, 1), -1e-2), rtol=1e-2, atol=0)  # zero without a scale
    moved = layer.weight.detach().clone()
    gradient_of(1e6)
    torch.testing.assert_close(layer.weight.detach(), moved)


def test_one_process_clips_to_the_norm():
    parameter = nn.Parameter(torch.ones(4))
    parameter.grad = torch.full((4,), 3.0)
    OneProcess(torch.device("cpu"), None).step(torch.optim.SGD([parameter], lr=1.0), [parameter], 1.0)
    torch.testing.assert_close((1 - parameter.detach()).norm(), torch.tensor(1.0), atol=1e-4, rtol=0)
