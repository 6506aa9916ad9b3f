"""How fast is everything on an accelerator? One command for whoever has one.

python benchmarks/on_gpu.py all            every row, then docs/benchmarks.md
python benchmarks/on_gpu.py embedding      embedding photographs with ResNet-34 and ViT-B/16
python benchmarks/on_gpu.py step           a training step of every method, and of PEFT's LoRA, against the plain one
python benchmarks/on_gpu.py fit            tuning from JPEG files, end to end

`--small` takes tiny networks and few images, so that a CPU can run it all; its numbers mean nothing.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import timm
import torch
import typer
from measure import peak_of, ratio, times
from page import table, write_section
from photographs import CLASSES, photographs
from torch import nn
from torch.nn import functional as F

import adapters
import task2vec
from adapters import METHODS, AdapterConfig, IncompatibleError
from adapters.data import transform_of

PROBES = ("resnet34", "vit_base_patch16_224")
SMALL = ("resnet10t", adapters.DEFAULT_BACKBONE)

app = typer.Typer(add_completion=False, help=__doc__)
Small = Annotated[bool, typer.Option("--small", help="Tiny networks and few images.")]


class Scale:
    """How much is measured, and where."""

    def __init__(self, small: bool) -> None:
        self.compute = task2vec.Compute()
        self.device = self.compute.torch_device
        self.networks = SMALL if small else PROBES
        self.images, self.batch, self.rounds = (20, 4, 1) if small else (1000, 64, 9)
        self.photograph = (64, 48) if small else (500, 375)
        self.methods = ("lora", "bitfit") if small else tuple(sorted(m for m in METHODS if m != "full"))

    def task(self) -> task2vec.Task:
        """Photographs, which later runs find again."""
        folder = Path(tempfile.gettempdir()) / f"task2vec-photographs-{self.images}-{self.photograph[0]}"
        return photographs(folder, self.images, self.photograph)

    def model(self, network: str) -> nn.Module:
        """A network with random weights, where it is measured."""
        torch.manual_seed(0)
        return timm.create_model(network, num_classes=CLASSES).to(self.device)

    def measured(self, work: Callable[[], object]) -> tuple[float, int]:
        """Seconds, and bytes that it takes at most on the device (on a CPU: of this process), above what lay there."""
        if self.device.type != "cuda":
            start = time.perf_counter()
            peak = peak_of(work)
            return time.perf_counter() - start, peak
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        start = time.perf_counter()
        work()
        torch.cuda.synchronize()
        return time.perf_counter() - start, torch.cuda.max_memory_allocated() - before

    def finished(self, work: Callable[[], object]) -> Callable[[], None]:
        """The same work, to its end on the device."""

        def whole() -> None:
            work()
            if self.device.type != "cpu":
                torch.accelerator.synchronize()

        return whole


@app.command()
def embedding(small: Small = False) -> str:
    """Embedding photographs: images a second and peak memory."""
    scale, rows = Scale(small), []
    task = scale.task()
    for network in scale.networks:
        model = scale.model(network)
        classifier = model.pretrained_cfg["classifier"]
        probe = task2vec.Probe(model, classifier, transform_of(model), name=network)

        def work(probe: task2vec.Probe = probe) -> None:
            task2vec.embed(task, probe, compute=scale.compute)

        scale.measured(work)  # loads kernels and picks the fastest ones
        seconds, peak = scale.measured(work)
        rows.append([network, f"{len(task) / seconds:.0f}", f"{peak / 2**20:.0f} MiB"])
        typer.echo(rows[-1])
    return table([f"{len(task)} photographs", "images a second", "peak memory"], rows)


@app.command()
def step(small: Small = False) -> str:
    """A training step of every method, and of PEFT's LoRA, against the step of the plain network."""
    scale = Scale(small)
    network = scale.networks[-1]
    plain = _step_of(scale, scale.model(network))
    ways: dict[str, Callable[[], nn.Module]] = {
        method: lambda method=method: adapters.attach(  # type: ignore[misc]
            scale.model(network), AdapterConfig(method), CLASSES, seed=0
        )
        for method in scale.methods
    }
    ways["PEFT's LoRA"] = lambda: _peft_lora(scale.model(network))
    rows = []
    for name, make in ways.items():
        try:
            way = _step_of(scale, make())
        except IncompatibleError:
            continue
        taken = times({"plain": plain, "way": way}, scale.rounds)
        _, peak = scale.measured(way)
        _, peak_of_plain = scale.measured(plain)
        per_second = scale.batch / statistics.median(taken["way"])
        share = f"{ratio(taken['way'], taken['plain']):.2f}"
        rows.append([name, f"{per_second:.0f}", share, f"{peak / max(1, peak_of_plain):.2f}"])
        typer.echo(rows[-1])
    head = [f"{network}, {scale.batch} images", "images a second", "step / plain step", "memory / plain step"]
    return table(head, rows)


def _step_of(scale: Scale, model: nn.Module) -> Callable[[], None]:
    """Forward, backward and AdamW on one batch, as `fit` computes it."""
    model.train()
    _, *size = transform_of_size(model)
    optimiser = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-4)
    inputs = torch.randn(scale.batch, 3, *size, device=scale.device)
    labels = torch.randint(CLASSES, (scale.batch,), device=scale.device)
    dtype = scale.compute.autocast_dtype

    def work() -> None:
        optimiser.zero_grad()
        with torch.autocast(scale.device.type, dtype, enabled=dtype is not None):
            loss = F.cross_entropy(model(inputs), labels)
        loss.backward()
        optimiser.step()

    return scale.finished(work)


def transform_of_size(model: nn.Module) -> tuple[int, int, int]:
    """Channels, rows and columns of the images that a timm model takes, through PEFT's wrapper too."""
    inner: Any = getattr(model, "base_model", model)
    size: tuple[int, int, int] = getattr(inner, "model", inner).pretrained_cfg["input_size"]
    return size


def _peft_lora(model: nn.Module) -> nn.Module:
    import peft

    config = peft.LoraConfig(r=8, lora_alpha=8, target_modules=["qkv"], modules_to_save=["head"])
    return peft.get_peft_model(model, config)


@app.command()
def fit(small: Small = False) -> str:
    """Tuning from JPEG files, end to end: decoding, three epochs, validation."""
    scale, rows = Scale(small), []
    train, validation = scale.task().split(0.2)
    for network in scale.networks:
        for augment in ("none", "timm"):
            model = adapters.attach(scale.model(network), AdapterConfig("lora", epochs=3), CLASSES, seed=0)

            def work(model: nn.Module = model, augment: Any = augment) -> None:
                settings = {"batch_size": scale.batch, "augment": augment, "autocast": scale.compute.autocast_dtype}
                adapters.fit(model, train, validation, **settings, progress=False)

            seconds, peak = scale.measured(work)
            rows.append([network, augment, f"{3 * len(train) / seconds:.0f}", f"{peak / 2**20:.0f} MiB"])
            typer.echo(rows[-1])
    return table(["LoRA, 3 epochs", "augmentation", "training images a second", "peak memory"], rows)


@app.command("all")
def everything(small: Small = False) -> None:
    """Every row, then the section of docs/benchmarks.md (which `--small` leaves alone)."""
    scale = Scale(small)
    name = torch.cuda.get_device_name(scale.device) if scale.device.type == "cuda" else str(scale.device)
    version = torch.__version__.split("+")[0]
    precision = str(scale.compute.autocast_dtype or torch.float32).removeprefix("torch.")
    body = f"""{name}, torch {version}, {precision}. Networks have random weights; photographs are JPEG files of
{scale.photograph[0]} x {scale.photograph[1]} pixels. Peak memory is above what lay on the device before, the weights
among it.

Embedding, from files to the vector:

{embedding(small)}

A training step; the plain one trains all weights:

{step(small)}

Tuning, from files to the best epoch:

{fit(small)}"""
    if small:
        typer.echo(body)
    else:
        write_section("gpu", "On an accelerator", "python benchmarks/on_gpu.py all", body)


if __name__ == "__main__":
    app()
