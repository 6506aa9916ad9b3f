"""How fast and how large is tuning, beside full fine-tuning, PEFT and SSF as published? Ratios of one run.

python benchmarks/adapter_speed.py all           every row, then docs/benchmarks.md
python benchmarks/adapter_speed.py step          a training step of every method against full fine-tuning
python benchmarks/adapter_speed.py peft          a LoRA step against the same step through PEFT
python benchmarks/adapter_speed.py ssf           peak memory of an SSF step against the published formulation
python benchmarks/adapter_speed.py merged        latency of merged models against untouched ones
python benchmarks/adapter_speed.py switching     milliseconds to switch between adapters on ViT-B/16
"""

from __future__ import annotations

import copy
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Annotated

import timm
import torch
import typer
from measure import keep_memory, peak_of, ratio, times
from page import table, write_section
from torch import Tensor, nn
from torch.nn import functional as F

import adapters
from adapters import METHODS, AdapterConfig, IncompatibleError
from adapters.methods.ssf import ScaleShift

NUM_CLASSES = 10
BATCH = 16
NETWORKS = ("vit_tiny_patch16_224", "resnet18")

app = typer.Typer(add_completion=False, help=__doc__)


def backbone(name: str) -> nn.Module:
    """A network with random weights."""
    torch.manual_seed(0)
    return timm.create_model(name, num_classes=NUM_CLASSES)


def step_of(model: nn.Module) -> Callable[[], None]:
    """Forward, backward and AdamW on one batch of 224 px."""
    model.train()
    optimiser = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-4)
    inputs, labels = torch.randn(BATCH, 3, 224, 224), torch.randint(NUM_CLASSES, (BATCH,))

    def step() -> None:
        optimiser.zero_grad()
        F.cross_entropy(model(inputs), labels).backward()
        optimiser.step()

    return step


def _scores(model: nn.Module, method: str) -> dict[str, torch.Tensor] | None:
    """The weights' own sizes, for methods that choose by scores: which entries they choose costs them nothing."""
    if METHODS[method].choose is None:
        return None
    layers = {n: m for n, m in model.named_modules() if isinstance(m, (nn.Linear, nn.Conv2d))}
    return {name: layer.weight.detach().abs() for name, layer in layers.items()}


@app.command()
def step() -> str:
    """A training step of every method against full fine-tuning."""
    ratios: dict[str, list[str]] = {method: [] for method in sorted(METHODS) if method not in ("full", "linear")}
    for network in NETWORKS:
        full = step_of(backbone(network))
        for method, row in ratios.items():
            try:
                model = backbone(network)
                way = step_of(adapters.attach(model, AdapterConfig(method), seed=0, scores=_scores(model, method)))
            except IncompatibleError:
                row.append("-")
                continue
            taken = times({"full": full, "adapter": way}, rounds=5)
            row.append(f"{ratio(taken['adapter'], taken['full']):.2f}")
            typer.echo(f"{network} {method} {row[-1]}")
    return table(["step / full fine-tuning step", *NETWORKS], [[f"`{m}`", *row] for m, row in ratios.items()])


@app.command()
def peft() -> str:
    """A LoRA step against the same step through PEFT, of the query-key-value layers as a whole."""
    import peft as peer

    rows = []
    for network, targets in (("vit_tiny_patch16_224", ["qkv"]), ("vit_tiny_patch16_224", ["qkv", "fc1", "fc2"])):
        ours = adapters.attach(backbone(network), AdapterConfig("lora", rank=8, targets=tuple(targets)), seed=0)
        config = peer.LoraConfig(r=8, lora_alpha=8, target_modules=targets, modules_to_save=["head"])
        theirs = peer.get_peft_model(backbone(network), config)
        taken = times({"peft": step_of(theirs), "ours": step_of(ours)})
        rows.append([f"{network}, {', '.join(targets)}", f"{ratio(taken['ours'], taken['peft']):.2f}"])
        typer.echo(rows[-1])
    return table(["", "step / step through PEFT"], rows)


class PublishedScaleShift(ScaleShift):
    """SSF as its authors wrote it: a product and a sum, each of which autograd takes care of."""

    def forward(self, inputs: Tensor, output: Tensor) -> Tensor:
        """`output * scale + shift`."""
        scaled = output * self.scale.view(self.shape)
        return scaled if self.shift is None else scaled + self.shift.view(self.shape)


@app.command()
def ssf() -> str:
    """Peak memory of an SSF step against the published formulation."""
    rows = []
    for network in ("vit_tiny_patch16_224", "vit_base_patch16_224"):
        peaks = {way: _peak(network, way) for way in ("ours", "published")}
        model = {way: _with_ssf(network, way) for way in peaks}
        taken = times({way: step_of(m) for way, m in model.items()}, rounds=5 if "tiny" in network else 2)
        rows.append(
            [
                network,
                f"{peaks['published'] / 2**20:.0f} MiB",
                f"{peaks['ours'] / peaks['published']:.2f}",
                f"{ratio(taken['ours'], taken['published']):.2f}",
            ]
        )
        typer.echo(rows[-1])
    return table(["SSF step", "published", "memory / published", "time / published"], rows)


def _with_ssf(network: str, way: str) -> nn.Module:
    model = adapters.attach(backbone(network), AdapterConfig("ssf"), seed=0)
    if way == "published":
        for part in adapters.adapter_of(model).sites.values():
            part.__class__ = PublishedScaleShift
    return model


def _peak(network: str, way: str) -> int:
    command = [sys.executable, __file__, "memory", network, way]
    return int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


@app.command(hidden=True)
def memory(network: str, way: str) -> None:
    """Print the peak memory of one step in a process of its own."""
    model = _with_ssf(network, way)
    model(torch.randn(1, 3, 224, 224)).sum().backward()  # loads kernels, which are no part of the step
    sys.stdout.write(str(peak_of(step_of(model))))


@app.command()
@torch.no_grad()
def merged() -> str:
    """Latency of merged models against untouched ones, and of unmerged ones."""
    rows = []
    inputs = torch.randn(BATCH, 3, 224, 224)
    for network, method in (
        ("vit_tiny_patch16_224", "ssf"),
        ("vit_tiny_patch16_224", "lora"),
        ("vit_tiny_patch16_224", "repadapter"),
        ("vit_tiny_patch16_224", "fact"),
        ("resnet18", "ssf"),
        ("resnet18", "residual_serial"),
        ("resnet18", "residual_parallel"),
    ):
        plain = backbone(network).eval()
        tuned = adapters.attach(copy.deepcopy(plain), AdapterConfig(method), seed=0).eval()
        ways = {"plain": plain, "merged": adapters.merge(tuned).eval(), "tuned": tuned}
        taken = times({name: lambda model=model: model(inputs) for name, model in ways.items()}, rounds=15)
        cells = (f"{ratio(taken[way], taken['plain']):.2f}" for way in ("merged", "tuned"))
        rows.append([f"{network}, `{method}`", *cells])
        typer.echo(rows[-1])
    return table(["latency / untouched model", "merged", "with its adapter"], rows)


@app.command()
def switching() -> str:
    """Milliseconds to switch between two adapters on ViT-B/16."""
    rows = []
    for methods in (("ssf", "lora"), ("ssf", "norm"), ("full", "ssf"), ("vpt_deep", "adaptformer")):
        model = timm.create_model("vit_base_patch16_224", num_classes=NUM_CLASSES)
        for method in methods:
            adapters.attach(model, AdapterConfig(method), num_classes=NUM_CLASSES, name=method)
        taken = []
        for number in range(101):
            start = time.perf_counter()
            adapters.switch(model, methods[number % 2])
            taken.append(time.perf_counter() - start)
        rows.append([" and ".join(f"`{m}`" for m in methods), f"{1000 * statistics.median(taken):.2f} ms"])
        typer.echo(rows[-1])
    return table(["switching between", "median"], rows)


@app.command("all")
def everything(threads: Annotated[int, typer.Option(help="CPU threads")] = 2) -> None:
    """Every row, then the section of docs/benchmarks.md."""
    keep_memory()
    torch.set_num_threads(threads)
    version = torch.__version__.split("+")[0]
    body = f"""On {threads} CPU threads, torch {version}, float32, {BATCH} images of 224 px; medians of rounds in which
the ways take turns, with glibc told to keep freed memory. A step is forward, backward and AdamW, each method at its
defaults.

{step()}

Without any gradient of a weight, a step on the ViT costs about 0.73 of the full one (`norm`, `bitfit`): attention,
GELU and normalisations flow back all the same. What a method adds comes on top: `vpt_shallow` carries 50 more tokens
beside 197, `fact` updates every linear layer, SSF reads and writes the result of every operation once more.

{peft()}

{ssf()}

{merged()}

{switching()}"""
    write_section("adapters", "Adapters", "pip install '.[bench]'\npython benchmarks/adapter_speed.py all", body)


if __name__ == "__main__":
    app()
