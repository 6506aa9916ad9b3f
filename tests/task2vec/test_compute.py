"""Device and precision, without any accelerator at hand."""

import pytest
import torch

from task2vec import Compute, ComputeError, embed, load_probe
from task2vec.compute import same_device
from tests.conftest import random_task

HERE = torch.accelerator.is_available()


def test_cuda_and_its_first_device_are_the_same():
    assert Compute("cuda") == Compute("cuda:0")
    assert hash(Compute("cuda")) == hash(Compute("cuda:0"))
    assert Compute("cuda") != Compute("cuda:1")
    assert same_device("cpu") == torch.device("cpu")


@pytest.mark.skipif(HERE, reason="this machine has an accelerator")
def test_without_an_accelerator_everything_is_computed_on_the_cpu_as_the_weights_are():
    compute = Compute()
    assert (compute.torch_device, compute.autocast_dtype) == (torch.device("cpu"), None)
    assert Compute(autocast="bfloat16").autocast_dtype == torch.bfloat16


@pytest.mark.skipif(not HERE, reason="this machine has no accelerator")
def test_the_accelerator_is_taken_where_there_is_one():
    assert Compute().torch_device.type == torch.accelerator.current_accelerator().type


def test_a_device_that_is_not_there_is_one_sentence_before_anything_is_done():
    with pytest.raises(ComputeError, match=r"there is no device cuda:99 here; this machine has cpu"):
        embed(random_task(), load_probe(), compute=Compute("cuda:99"))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"device": "gpu"}, "torch knows no device 'gpu'"),
        ({"autocast": "bf16"}, "autocast='bf16' is unknown; give auto, none, bfloat16 or float16"),
        ({"workers": -1}, "workers=-1 cannot read"),
        ({"workers": True}, "workers=True cannot read"),
        ({"workers": "many"}, "workers='many' cannot read"),
    ],
)
def test_settings_that_cannot_be_meant_are_refused(settings, message):
    with pytest.raises(ComputeError, match=message):
        Compute(**settings)


def test_a_network_on_an_accelerator_stays_there():
    assert Compute().device_for(torch.device("cuda", 1)) == torch.device("cuda", 1)
    assert Compute("cpu").device_for(torch.device("cuda", 1)) == torch.device("cpu")


def test_a_probe_is_not_copied_to_where_it_is():
    probe = load_probe()
    assert probe.to("cpu") is probe
    moved = probe.to("meta")
    assert moved.device == torch.device("meta")
    assert moved.fingerprint == probe.fingerprint


def test_an_embedding_computed_in_bfloat16_is_close_and_dtype_overrides_it():
    task, probe = random_task(), load_probe()
    exact = embed(task, probe).fisher
    rounded = embed(task, probe, compute=Compute("cpu", "bfloat16", workers=0)).fisher
    assert 0 < abs(rounded - exact).sum() / exact.sum() < 0.1
    chosen = embed(task, probe, compute=Compute("cpu", "bfloat16"), dtype=torch.float32).fisher
    assert (chosen == exact).all()
