"""A training step waits for no accelerator, proven without one.

`meta` tensors have shapes but no values: whatever asks one for a value, or copies it to the CPU, fails. So a training
on `meta` runs to the first place that would wait for a GPU.
"""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

import adapters
from adapters import AdapterConfig
from adapters.augmentation import mixing_of
from adapters.run import Run
from tests.adapters.test_fit import imbalanced, model_for, stripes
from tests.adapters.test_losses import several

STEPS = 6


@pytest.mark.parametrize(
    ("config", "settings", "data"),
    [
        (AdapterConfig("lora", rank=2, epochs=2), {}, stripes(48)),
        (AdapterConfig("lora", rank=2, epochs=2), {"label_smoothing": 0.1, "drop_path": 0.1}, stripes(48)),
        (AdapterConfig("bitfit", epochs=2), {"loss": "weighted_cross_entropy"}, (imbalanced(400) * 2)[:48]),
        (AdapterConfig("ssf", epochs=2), {"sampling": "balanced"}, stripes(48)),
        (AdapterConfig("adaptformer", bottleneck=4, epochs=2), {}, [(i, [*r.tolist(), 0]) for i, r in several(48)]),
    ],
)
def test_no_step_asks_the_device_for_a_value(config, settings, data):
    model = model_for(config).to("meta")
    steps = []
    model.register_forward_hook(lambda *_: steps.append(1))
    with pytest.raises((NotImplementedError, RuntimeError), match="meta"):
        adapters.fit(model, data, batch_size=8, progress=False, **settings)
    assert len(steps) == STEPS


def test_mixed_batches_ask_for_none_either():
    images, labels = torch.zeros(8, 3, 8, 8, device="meta"), torch.zeros(8, dtype=torch.long, device="meta")
    mixed, targets = mixing_of("timm", 3, 0.1)(images, labels, (0, 1))
    assert (mixed.device.type, targets.shape) == ("meta", (8, 3))


class Counting(TorchDispatchMode):
    """Counts what would make the processor wait for the device: values that are asked for, and copies to the CPU."""

    def __init__(self):
        super().__init__()
        self.waits = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name = function.overloadpacket.__name__
        on_device = any(isinstance(arg, torch.Tensor) and arg.device.type == "meta" for arg in args)
        target = str((kwargs or {}).get("device", "meta"))
        if on_device and (name in ("_local_scalar_dense", "item", "nonzero") or target.startswith("cpu")):
            self.waits.append(name)
        return function(*args, **(kwargs or {}))


def test_a_step_makes_no_call_that_waits(monkeypatch):
    counted = Counting()
    step = Run._step

    def watched(self, *args):
        with counted:
            return step(self, *args)

    monkeypatch.setattr(Run, "_step", watched)
    model = model_for(AdapterConfig("lora", rank=2, epochs=1)).to("meta")
    with pytest.raises((NotImplementedError, RuntimeError), match="meta"):
        adapters.fit(model, stripes(16), batch_size=8, progress=False)
    assert counted.waits == []
    with counted, pytest.raises((NotImplementedError, RuntimeError)):  # it does see one where there is one
        torch.zeros(1, device="meta").cpu()
    assert counted.waits
