"""Adapters under torch.compile, autocast, gradient checkpointing and Accelerate."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import adapters
from adapters import METHODS, AdapterConfig
from tests.adapters.families import NUM_CLASSES, attach, backbone, fits, images

SMALL = {"bottleneck": 4, "rank": 2, "prompts": 3}
PAIRS = [(f, m) for f in ("ViT", "ResNet, basic") for m in METHODS if fits(f, m)]


def model_for(family, method):
    sizes = {name: size for name, size in SMALL.items() if name in METHODS[method].defaults}
    if "batch_norm" in METHODS[method].defaults:  # its statistics are each process's
        sizes["batch_norm"] = False
    model = attach(backbone(family), AdapterConfig(method, **sizes), NUM_CLASSES, seed=0)
    for parameter in adapters.tuned_parameters(model).values():
        parameter.data += 0.01
    return model.eval()


def gradients(model, forward, inputs):
    model.zero_grad()
    outputs = forward(inputs).float()
    outputs.square().sum().backward()
    return outputs.detach(), {name: p.grad for name, p in adapters.tuned_parameters(model).items()}


COMPILED = ("lora", "ssf", "adaptformer", "vpt_deep", "conv_adapter", "gps")  # one of each kind; the rest is slow


@pytest.mark.parametrize(
    ("family", "method"),
    [pytest.param(f, m, marks=[] if m in COMPILED else [pytest.mark.slow]) for f, m in PAIRS],
)
def test_a_compiled_model_has_the_same_outputs_and_gradients(family, method):
    torch._dynamo.reset()
    model = model_for(family, method)
    expected = gradients(model, model, images(family))
    compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(gradients(model, compiled, images(family)), expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(("family", "method"), PAIRS)
def test_bfloat16_autocast_changes_outputs_by_its_rounding_only(family, method):
    model = model_for(family, method)
    expected, _ = gradients(model, model, images(family))
    with torch.autocast("cpu", torch.bfloat16):
        outputs, found = gradients(model, model, images(family))
    assert (outputs - expected).norm() < 0.05 * expected.norm()
    assert all(gradient is not None and gradient.isfinite().all() for gradient in found.values())
    assert {gradient.dtype for gradient in found.values()} == {torch.float32}


@pytest.mark.parametrize("method", [m for f, m in PAIRS if f == "ViT"])
def test_gradient_checkpointing_gives_the_same_gradients_dropout_included(method):
    model = model_for("ViT", method).train()
    torch.manual_seed(0)
    expected = gradients(model, model, images("ViT"))
    model.set_grad_checkpointing()
    torch.manual_seed(0)
    torch.testing.assert_close(gradients(model, model, images("ViT")), expected, atol=1e-5, rtol=1e-5)


TWO_PROCESSES = """
import sys, torch
from accelerate import Accelerator
from tests.adapters.test_ecosystem import *

def train(accelerator, out):
    model = model_for(sys.argv[1], sys.argv[2]).double()  # AdamW makes much of the rounding of small gradients
    pixels = torch.randn(15, *images(sys.argv[1]).shape[1:], generator=torch.Generator().manual_seed(5)).double()
    data = [(image, i % 3) for i, image in enumerate(pixels)]
    result = adapters.fit(model, data[:11], data[11:], batch_size=5, accelerator=accelerator, out=out, progress=False)
    return result, {name: p.detach().clone() for name, p in adapters.tuned_parameters(model).items()}

if __name__ == "__main__":
    torch.set_num_threads(1)
    accelerator = Accelerator(cpu=True)
    assert accelerator.num_processes == 2
    result, tuned = train(accelerator, sys.argv[3])
    if accelerator.is_main_process:
        expected, alone = train(None, None)
        torch.testing.assert_close(tuned, alone, atol=2e-5, rtol=1e-3)
        losses = [[r["loss"] for r in found.history] for found in (result, expected)]
        torch.testing.assert_close(*losses, atol=1e-4, rtol=1e-4)
        print("the same", len(result.history))
    accelerator.end_training()
"""


@pytest.mark.slow
@pytest.mark.parametrize(("family", "method"), [("ViT", "lora"), ("ResNet, basic", "residual_serial")])
def test_two_processes_of_accelerate_train_the_same_weights_as_one(family, method, tmp_path):
    pytest.importorskip("accelerate", reason="pip install accelerate")
    script = tmp_path / "train.py"
    script.write_text(TWO_PROCESSES)
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    run = subprocess.run(
        [*launch, str(script), family, method, str(tmp_path / "out")],
        env=os.environ | {"PYTHONPATH": str(Path.cwd()), "ACCELERATE_USE_CPU": "true"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert "the same 20" in run.stdout, run.stderr[-3000:]
    assert len((tmp_path / "out" / "metrics.jsonl").read_text().splitlines()) == 20
