"""How fast is a pass, beside an ordinary training step and the alternatives? Ratios of times taken in turn in one run.

python benchmarks/speed.py all          every row, then docs/benchmarks.md
python benchmarks/speed.py step         Fisher pass and variational pass against a training step
python benchmarks/speed.py vmap         Fisher pass against per-sample gradients through torch.func.vmap
python benchmarks/speed.py backpack     Fisher pass against BackPACK's SumGradSquared
"""

from __future__ import annotations

import statistics
import subprocess
import sys
from typing import Annotated

import timm
import torch
import typer
from measure import keep_memory, peak_of, ratio, times
from page import table, write_section
from torch import Tensor, nn
from torch.nn import functional as F

from task2vec.fisher.per_sample import SquaredGradients
from task2vec.fisher.variational import WeightNoise, prior_variances

NUM_CLASSES = 10

# Each network with the images of its batch, of 224 px.
NETWORKS = {"vit_tiny_patch16_224": 16, "resnet18": 16, "convnext_atto": 16, "resnet50": 8}

app = typer.Typer(add_completion=False, help=__doc__)


class Setup:
    """A network with a batch, and the ways to pass over it that are compared."""

    def __init__(self, model: nn.Module, batch: int, size: int = 224) -> None:
        torch.manual_seed(0)
        self.model = model.eval()
        self.inputs = torch.randn(batch, 3, size, size)
        self.labels = torch.randint(NUM_CLASSES, (batch,))
        head = [n for n, m in model.named_modules() if isinstance(m, nn.Linear)][-1]
        self.layers = {n: m for n, m in model.named_modules() if isinstance(m, (nn.Linear, nn.Conv2d)) and n != head}
        self.noise = WeightNoise(self.layers, 1e-6 * prior_variances(self.layers, 1.0), seed=0)

    def step(self) -> None:
        """Forward and backward of an ordinary training step, every weight asking for its gradient."""
        self.model.requires_grad_(True)
        F.cross_entropy(self.model(self.inputs), self.labels).backward()
        self.model.zero_grad(set_to_none=True)

    def fisher(self) -> None:
        """One Fisher pass: squared per-sample gradients, averaged in each filter."""
        self.model.requires_grad_(False)
        recorder = SquaredGradients(self.layers, len(self.inputs))
        with torch.enable_grad(), recorder.recording():
            logits = self.model(self.inputs)
        score = logits.detach().softmax(dim=1) - F.one_hot(self.labels, logits.shape[1])
        recorder.of(logits, score)

    def variational(self) -> None:
        """One pass of the variational fixed point: a Fisher pass at noisy weights."""
        with self.noise.drawn():
            self.fisher()

    def vmap(self) -> None:
        """Per-sample gradients of the same weights through torch.func, squared."""
        self.model.requires_grad_(False)
        weights = {f"{name}.weight": layer.weight.detach() for name, layer in self.layers.items()}

        def loss(weights: dict[str, Tensor], image: Tensor, label: Tensor) -> Tensor:
            logits = torch.func.functional_call(self.model, weights, (image[None],))
            return F.cross_entropy(logits, label[None])

        gradients = torch.func.vmap(torch.func.grad(loss), in_dims=(None, 0, 0))(weights, self.inputs, self.labels)
        for gradient in gradients.values():
            gradient.square().flatten(2).mean(dim=2)


def network(name: str, batch: int) -> Setup:
    """A network of the table with random weights."""
    return Setup(timm.create_model(name, num_classes=NUM_CLASSES), batch)


@app.command()
def step() -> str:
    """Fisher pass and variational pass against a training step."""
    rows = []
    for name, batch in NETWORKS.items():
        setup = network(name, batch)
        taken = times({"step": setup.step, "fisher": setup.fisher, "variational": setup.variational})
        memory = {way: peak_memory(name, way) for way in ("step", "fisher")}
        rows.append(
            [
                f"{name}, {batch} images",
                f"{statistics.median(taken['step']):.2f} s",
                f"{ratio(taken['fisher'], taken['step']):.2f}",
                f"{memory['fisher'] / memory['step']:.2f}",
                f"{ratio(taken['variational'], taken['fisher']):.2f}",
            ]
        )
        typer.echo(rows[-1])
    head = ["", "training step", "Fisher pass / step", "peak memory / step", "variational pass / Fisher pass"]
    return table(head, rows)


def peak_memory(name: str, way: str) -> int:
    """Bytes that a process of its own takes at most for one pass, above what it had before."""
    command = [sys.executable, __file__, "memory", name, way]
    return int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


@app.command(hidden=True)
def memory(name: str, way: str) -> None:
    """Print the peak memory of one pass, sampled from outside the computation."""
    setup = network(name, NETWORKS[name])
    small = Setup(setup.model, 1)
    getattr(small, way)()  # loads kernels, which are no part of the pass
    sys.stdout.write(str(peak_of(getattr(setup, way))))


@app.command()
def vmap() -> str:
    """Fisher pass against per-sample gradients through torch.func.vmap."""
    rows = []
    for name in ("vit_tiny_patch16_224", "resnet18"):
        setup = network(name, 16)
        taken = times({"vmap": setup.vmap, "fisher": setup.fisher}, rounds=5)
        rows.append([f"{name}, 16 images", f"{ratio(taken['vmap'], taken['fisher']):.1f} times"])
        typer.echo(rows[-1])
    return table(["", "faster than vmap"], rows)


def plain_network() -> nn.Module:
    """Convolutions and linear layers one after the other, all that BackPACK's extension knows."""
    layers: list[nn.Module] = []
    for inputs, outputs, stride in ((3, 32, 2), (32, 64, 2), (64, 128, 2), (128, 256, 2), (256, 256, 1)):
        layers += [nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1), nn.ReLU()]
    pooled = [nn.MaxPool2d(2), nn.Flatten(), nn.Linear(256 * 49, 256), nn.ReLU(), nn.Linear(256, NUM_CLASSES)]
    return nn.Sequential(*layers, *pooled)


@app.command()
def backpack() -> str:
    """Fisher pass against BackPACK's SumGradSquared."""
    import backpack as peer
    from backpack.extensions import SumGradSquared

    setup, extended = Setup(plain_network(), 16), Setup(plain_network(), 16)
    loss = peer.extend(nn.CrossEntropyLoss(reduction="sum"))
    model = peer.extend(extended.model)

    def way() -> None:
        with peer.backpack(SumGradSquared()):
            loss(model(extended.inputs), extended.labels).backward()
        model.zero_grad()

    taken = times({"backpack": way, "fisher": setup.fisher})
    rows = [
        ["five convolutions and two linear layers, 16 images", f"{ratio(taken['backpack'], taken['fisher']):.1f} times"]
    ]
    typer.echo(rows[-1])
    return table(["", "faster than BackPACK"], rows)


@app.command("all")
def everything(threads: Annotated[int, typer.Option(help="CPU threads")] = 2) -> None:
    """Every row, then the section of docs/benchmarks.md."""
    keep_memory()
    torch.set_num_threads(threads)
    version = torch.__version__.split("+")[0]
    body = f"""On {threads} CPU threads, torch {version}, float32, images of 224 px; medians of rounds in which the ways
take turns, with glibc told to keep freed memory. A training step is forward and backward without the optimiser. Memory
is what a process takes at most for one pass, above what it had before.

{step()}

Depthwise convolutions and those of 1x1 kernels on 14x14 pixels are what keeps convnext_atto above 1: their weight
gradient of a whole batch is one long sum, that of single images many short ones, at half the rate.

The same per-filter squares by other means:

{vmap()}

On the ViT, vmap runs the same batched matrix products and only stores their results before it squares them, so that
little more than that is saved.

{backpack()}"""
    write_section("speed", "Speed", "pip install '.[bench]'\npython benchmarks/speed.py all", body)


if __name__ == "__main__":
    app()
