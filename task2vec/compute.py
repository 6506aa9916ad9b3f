"""Where and how to compute: device, precision, worker processes and compilation, decided in one place."""

from __future__ import annotations

import dataclasses
from typing import Literal

import torch

from task2vec.errors import ComputeError

REDUCED = {"bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclasses.dataclass(frozen=True)
class Compute:
    """Where and how to compute; taken by everything that computes.

    Attributes:
        device: A device of torch such as `"cuda"`, `"cuda:1"`, `"mps"` or `"cpu"`; `"auto"` is the accelerator if
            there is one. `"cuda"` and `"cuda:0"` are the same.
        autocast: What to compute in where that is safe: `"bfloat16"`, `"float16"` or `"none"`. `"auto"` is bfloat16
            on an accelerator that has it, and none on a CPU.
        workers: Processes that read images; 0 to read them between the steps, `"auto"` for as many as pay.
        compile: Compile the model first; pays off in long trainings.

    Raises:
        ComputeError: a value is none of these.
    """

    device: str = "auto"
    autocast: str = "auto"
    workers: int | Literal["auto"] = "auto"
    compile: bool = False

    def __post_init__(self) -> None:
        """Refuse what cannot be meant, before anything long is done."""
        if self.device != "auto":
            object.__setattr__(self, "device", str(same_device(self.device)))
        name = str(self.autocast).removeprefix("torch.")
        if name not in ("auto", "none", *REDUCED):
            raise ComputeError(f"autocast={self.autocast!r} is unknown; give auto, none, {' or '.join(REDUCED)}")
        object.__setattr__(self, "autocast", name)
        number = self.workers
        if number != "auto" and (isinstance(number, bool) or not isinstance(number, int) or number < 0):
            raise ComputeError(f"workers={number!r} cannot read images; give 'auto', 0, or a number of processes")

    @property
    def torch_device(self) -> torch.device:
        """The device.

        Raises:
            ComputeError: this machine does not have it.
        """
        if self.device == "auto":
            accelerator = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
            return torch.device("cpu") if accelerator is None else same_device(accelerator)
        device = torch.device(self.device)
        if device.type not in ("cpu", "meta") and device not in _accelerators():
            there = ", ".join(str(found) for found in (torch.device("cpu"), *_accelerators()))
            raise ComputeError(f"there is no device {self.device} here; this machine has {there}")
        return device

    @property
    def autocast_dtype(self) -> torch.dtype | None:
        """The type to compute in where that is safe; None for that of the weights."""
        if self.autocast != "auto":
            return REDUCED.get(self.autocast)
        return torch.bfloat16 if _has_bfloat16(self.torch_device) else None

    def device_for(self, current: torch.device) -> torch.device:
        """Where to compute with a network that lies somewhere: `"auto"` leaves it on the accelerator that it is on."""
        return current if self.device == "auto" and current.type != "cpu" else self.torch_device


def same_device(device: str | torch.device) -> torch.device:
    """A device by its full name: `cuda` is `cuda:0`.

    Raises:
        ComputeError: torch knows no device of this name.
    """
    try:
        found = torch.device(device)
    except RuntimeError as error:
        raise ComputeError(f"torch knows no device {device!r}; give auto, cpu, cuda, cuda:1, mps and so on") from error
    return found if found.index is not None or found.type in ("cpu", "meta") else torch.device(found.type, 0)


def _accelerators() -> tuple[torch.device, ...]:
    if not torch.accelerator.is_available():
        return ()
    kind = torch.accelerator.current_accelerator()
    assert kind is not None  # there is one
    return tuple(torch.device(kind.type, number) for number in range(torch.accelerator.device_count()))


def _has_bfloat16(device: torch.device) -> bool:
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return device.type == "xpu"
