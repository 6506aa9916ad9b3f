"""LoRA adapters to and from the real PEFT package."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

import adapters
from adapters import AdapterConfig, CheckpointError, ConfigError
from tests.adapters.families import NUM_CLASSES, backbone, images

peft = pytest.importorskip("peft", reason="the other side of the comparison: pip install peft")
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")  # PEFT looks the backbone up online, in vain

CASES = [
    ("ViT", ("q", "v")),
    ("ViT", ("q", "fc1", "attn.proj")),
    ("DeiT", ("q", "k", "v")),
    ("ResNet, basic", ("conv1", "conv2")),
    ("ConvNeXt", ("fc1", "fc2")),
]


def tuned(family, targets):
    config = AdapterConfig("lora", rank=4, scale=0.7, targets=targets)
    model = adapters.attach(backbone(family), config, NUM_CLASSES, seed=0)
    torch.manual_seed(1)
    for parameter in adapters.tuned_parameters(model).values():
        parameter.data += 0.1 * torch.randn_like(parameter)
    return model.eval()


@pytest.mark.parametrize(("family", "targets"), CASES)
@torch.no_grad()
def test_peft_computes_the_same_from_what_was_written(family, targets, tmp_path):
    model = tuned(family, targets)
    adapters.to_peft(model, tmp_path)
    theirs = peft.PeftModel.from_pretrained(backbone(family), tmp_path).eval()
    expected = model(images(family))
    assert (expected - backbone(family)(images(family))).abs().max() > 0.01
    torch.testing.assert_close(theirs(images(family)), expected, atol=1e-5, rtol=1e-5)
    theirs.save_pretrained(tmp_path / "theirs")
    back = adapters.from_peft(backbone(family), tmp_path / "theirs").eval()
    torch.testing.assert_close(back(images(family)), expected, atol=1e-5, rtol=1e-5)
    assert adapters.adapter_of(back).config.method == "lora"


@pytest.mark.parametrize(
    ("family", "settings"),
    [
        ("ViT", {"target_modules": ["qkv"]}),
        ("ViT", {"target_modules": ["qkv", "fc2"], "rank_pattern": {"fc2": 2}, "alpha_pattern": {"fc2": 3}}),
        ("ViT", {"target_modules": ["qkv"], "use_rslora": True, "modules_to_save": ["head"]}),
        ("Swin", {"target_modules": ["qkv", "reduction"]}),
        ("ResNet, basic", {"target_modules": ["conv2"], "modules_to_save": ["fc"]}),
    ],
)
@torch.no_grad()
def test_what_peft_trained_computes_the_same_here_and_merges(family, settings, tmp_path):
    theirs = peft.get_peft_model(backbone(family), peft.LoraConfig(r=4, lora_alpha=10, **settings)).eval()
    torch.manual_seed(1)
    for name, parameter in theirs.named_parameters():
        if "lora_" in name or "modules_to_save" in name:
            parameter += 0.1 * torch.randn_like(parameter)
    theirs.save_pretrained(tmp_path)
    model = adapters.from_peft(backbone(family), tmp_path).eval()
    expected = theirs(images(family))
    assert (expected - backbone(family)(images(family))).abs().max() > 0.01
    torch.testing.assert_close(model(images(family)), expected, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(adapters.merge(model)(images(family)), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("start", ["pissa", "olora"])
def test_a_peft_adapter_that_changed_the_backbone_at_its_start_is_refused(start, tmp_path):
    config = peft.LoraConfig(r=2, target_modules=["qkv"], modules_to_save=["head"], init_lora_weights=start)
    peft.get_peft_model(backbone("ViT"), config).save_pretrained(tmp_path)
    with pytest.raises(CheckpointError, match=f"began as {start}, which changed the backbone's weights too"):
        adapters.from_peft(backbone("ViT"), tmp_path)


def test_what_cannot_be_exchanged_is_refused_with_its_reason(tmp_path):
    with pytest.raises(CheckpointError, match="only lora can be written for PEFT, not ssf"):
        adapters.to_peft(adapters.attach(backbone("ViT"), AdapterConfig("ssf")), tmp_path)
    with pytest.raises(CheckpointError, match=r"reads the weight of blocks\.0\.attn\.qkv without calling it"):
        adapters.to_peft(adapters.attach(backbone("BEiT"), AdapterConfig("lora", rank=2)), tmp_path)
    with pytest.raises(CheckpointError, match="no PEFT adapter is saved in"):
        adapters.from_peft(backbone("ViT"), tmp_path)
    adapters.to_peft(tuned("ViT", ("q", "v")), tmp_path)
    with pytest.raises(CheckpointError, match=r"has blocks\.0\.attn\.qkv, which resnet10t.c3_in1k has no LoRA for"):
        adapters.from_peft(backbone("ResNet, basic"), tmp_path)

    config = json.loads((tmp_path / "adapter_config.json").read_text())
    tensors = load_file(tmp_path / "adapter_model.safetensors")
    (tmp_path / "adapter_config.json").write_text(json.dumps(config | {"use_dora": True}))
    with pytest.raises(CheckpointError, match="holds DoRA; only plain LoRA"):
        adapters.from_peft(backbone("ViT"), tmp_path)
    (tmp_path / "adapter_config.json").write_text(json.dumps(config | {"peft_type": "IA3"}))
    with pytest.raises(CheckpointError, match="holds IA3"):
        adapters.from_peft(backbone("ViT"), tmp_path)
    (tmp_path / "adapter_config.json").write_text(json.dumps(config))
    del tensors["base_model.model.blocks.1.attn.qkv.lora_B.weight"]
    save_file(tensors, tmp_path / "adapter_model.safetensors")
    with pytest.raises(CheckpointError, match=r"lacks a factor of blocks\.1\.attn\.qkv"):
        adapters.from_peft(backbone("ViT"), tmp_path)
    (tmp_path / "adapter_model.safetensors").write_bytes(b"nonsense")
    with pytest.raises(CheckpointError, match=r"cannot read .*adapter_model\.safetensors"):
        adapters.from_peft(backbone("ViT"), tmp_path)


def test_a_peft_adapter_that_does_not_fit_leaves_the_backbone_as_it_was(tmp_path):
    adapters.to_peft(tuned("ViT", ("q", "v")), tmp_path)
    file = tmp_path / "adapter_model.safetensors"
    tensors = load_file(file)
    spoilt = {name: t[:, :-1].contiguous() if name.endswith("lora_A.weight") else t for name, t in tensors.items()}
    save_file(spoilt, file, metadata={"format": "pt"})
    model = adapters.attach(backbone("ViT"), AdapterConfig("ssf"), NUM_CLASSES, name="mine", seed=0)
    with torch.no_grad():
        expected = model(images("ViT"))
        with pytest.raises(CheckpointError, match="does not fit the model"):
            adapters.from_peft(model, tmp_path, name="theirs")
        torch.testing.assert_close(model(images("ViT")), expected, atol=0, rtol=0)
    with pytest.raises(ConfigError, match="the adapters here are: 'mine'"):
        adapters.switch(model, "theirs")


def test_a_peft_adapter_at_the_first_convolution_is_read(tmp_path):
    config = peft.LoraConfig(r=2, target_modules=["qkv", "proj", "fc1", "fc2"])
    theirs = peft.get_peft_model(backbone("ViT"), config).eval()
    with torch.no_grad():
        for name, parameter in theirs.named_parameters():
            if "lora_" in name:
                parameter += 0.1
        theirs.save_pretrained(tmp_path)
        model = adapters.from_peft(backbone("ViT"), tmp_path).eval()
        torch.testing.assert_close(model(images("ViT")), theirs(images("ViT")), atol=1e-4, rtol=1e-4)
