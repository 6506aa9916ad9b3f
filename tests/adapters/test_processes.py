"""What several processes do differently, with an accelerator that computes on a device this machine need not have."""

import torch
from torch import nn

from adapters.processes import OneProcess, SeveralProcesses


class OnAnotherDevice:
    """Stands for `accelerate.Accelerator` on GPUs: it adds up nothing that lies on the CPU, as nccl does not."""

    device, process_index, num_processes = torch.device("meta"), 0, 2

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
    processes = SeveralProcesses(OnAnotherDevice())
    assert processes.sum(torch.zeros(3, dtype=torch.long)).device.type == "meta"


def test_gradients_are_clipped_and_stepped_by_the_accelerator_which_knows_their_scale():
    accelerator = OnAnotherDevice()
    processes = SeveralProcesses(accelerator)
    processes.wrap_optimiser(torch.optim.SGD([nn.Parameter(torch.ones(2))], lr=0.1))
    processes.clip([nn.Parameter(torch.ones(2))], 1.0)
    assert accelerator.done == ["prepared", ("clipped", 1, 1.0)]


def test_one_process_clips_to_the_norm():
    parameter = nn.Parameter(torch.ones(4))
    parameter.grad = torch.full((4,), 3.0)
    OneProcess().clip([parameter], 1.0)
    torch.testing.assert_close(parameter.grad.norm(), torch.tensor(1.0), atol=1e-4, rtol=0)
