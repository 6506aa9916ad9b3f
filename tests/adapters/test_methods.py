"""Every method on every backbone family it fits: sizes, starting point, merging, saving."""

import copy

import numpy as np
import pytest
import timm
import torch

import adapters
from adapters import METHODS, AdapterConfig, IncompatibleError, MergeError

BACKBONES = {
    "task2vec_vit_patch4_32": {},
    "vit_tiny_patch16_224": {"img_size": 64, "depth": 3},
    "vit_small_patch14_reg4_dinov2": {"img_size": 56, "depth": 2},
    "resnet18": {},
    "resnet26t": {},
}
CONFIGS = {
    "linear": AdapterConfig("linear"),
    "ssf": AdapterConfig("ssf"),
    "ssf late": AdapterConfig("ssf", blocks=(1,)),
    "lora": AdapterConfig("lora", rank=3, scale=0.5),
    "adaptformer": AdapterConfig("adaptformer", bottleneck=5),
}
MERGING = [name for name, config in CONFIGS.items() if not METHODS[config.method].cannot_merge]
NUM_CLASSES = 4


def backbone(name, dtype=torch.float32):
    torch.manual_seed(0)
    model = timm.create_model(name, num_classes=NUM_CLASSES, **BACKBONES[name])
    for module in model.modules():  # statistics and scales as after training
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2)
            module.weight.data.uniform_(0.5, 1)
    return model.to(dtype).eval()


def images(name, dtype=torch.float32):
    size = BACKBONES[name].get("img_size") or timm.get_pretrained_cfg(name).input_size[-1]
    return torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(0)).to(dtype)


def fits(name, config):
    return "resnet" not in name or config != "adaptformer"


PAIRS = [(b, c) for b in BACKBONES for c in CONFIGS if fits(b, c)]


def attached(name, config, dtype=torch.float32, *, disturbed=True):
    """A backbone with an adapter, its trainable parameters moved away from where they start."""
    model = adapters.attach(backbone(name, dtype), CONFIGS[config], NUM_CLASSES, seed=0)
    if disturbed:
        generator = torch.Generator().manual_seed(1)
        for parameter in adapters.tuned_parameters(model).values():
            parameter.data += 0.1 * torch.randn(parameter.shape, generator=generator).to(dtype)
    return model.eval()


@pytest.mark.parametrize(("name", "config"), PAIRS)
def test_only_adapter_and_classifier_are_trainable_and_all_of_them_get_gradients(name, config):
    model = attached(name, config)
    tuned = adapters.tuned_parameters(model)
    head = model.pretrained_cfg["classifier"]
    assert all(n.startswith(("adapter.", f"{head}.")) for n in tuned)
    model(images(name)).square().sum().backward()
    for parameter_name, parameter in model.named_parameters():
        has_gradient = parameter.grad is not None and bool(parameter.grad.abs().sum() > 0)
        assert has_gradient == (parameter_name in tuned), parameter_name


@pytest.mark.parametrize(("name", "config"), [(b, c) for b, c in PAIRS if c in ("lora", "adaptformer", "linear")])
def test_methods_that_start_from_the_backbone_change_nothing_at_first(name, config):
    plain = backbone(name)
    model = adapters.attach(copy.deepcopy(plain), CONFIGS[config])  # without num_classes the classifier stays
    torch.testing.assert_close(model(images(name)), plain(images(name)), atol=0, rtol=0)


@pytest.mark.parametrize(("name", "config"), [(b, c) for b, c in PAIRS if c in MERGING])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float64, 1e-10)])
@torch.no_grad()
def test_a_merged_model_is_a_plain_timm_model_with_the_same_outputs(name, config, dtype, tolerance):
    model, inputs = attached(name, config, dtype), images(name, dtype)
    outputs = model(inputs)
    merged = adapters.merge(model)
    assert (outputs - backbone(name, dtype)(inputs)).abs().max() > 1e-3  # there is something to merge
    torch.testing.assert_close(merged.eval()(inputs), outputs, atol=tolerance, rtol=tolerance)
    torch.testing.assert_close(model(inputs), outputs, atol=0, rtol=0)  # the original stays as it is
    fresh = timm.create_model(name, num_classes=NUM_CLASSES, **BACKBONES[name]).to(dtype).eval()
    fresh.load_state_dict(merged.state_dict(), strict=True)
    torch.testing.assert_close(fresh(inputs), outputs, atol=tolerance, rtol=tolerance)
    assert {t.dtype for t in merged.parameters()} == {dtype}


def test_methods_that_cannot_merge_say_why():
    with pytest.raises(MergeError, match="adaptformer cannot merge: its ReLU"):
        adapters.merge(attached("task2vec_vit_patch4_32", "adaptformer"))


def test_a_merge_refuses_numbers_that_are_not_finite():
    model = attached("resnet18", "ssf")
    next(iter(adapters.tuned_parameters(model).values())).data[0] = float("nan")
    with pytest.raises(MergeError, match="has NaN or infinite values"):
        adapters.merge(model)


@pytest.mark.parametrize(("name", "config"), PAIRS)
@torch.no_grad()
def test_saving_and_loading_gives_the_same_outputs(name, config, tmp_path):
    model = attached(name, config)
    adapters.save(model, tmp_path, class_names=tuple("abcd"))
    loaded = adapters.load(backbone(name), tmp_path).eval()
    torch.testing.assert_close(loaded(images(name)), model(images(name)), atol=0, rtol=0)
    assert adapters.adapter_of(loaded).config == CONFIGS[config]


@pytest.mark.parametrize(
    ("config", "millions"),
    [
        (AdapterConfig("ssf"), "0.21"),
        (AdapterConfig("lora", rank=8), "0.29"),
        (AdapterConfig("adaptformer", bottleneck=8), "0.16"),
    ],
)
def test_parameter_counts_on_vit_base_are_the_published_ones(config, millions):
    with torch.device("meta"):
        model = timm.create_model("vit_base_patch16_224")
        adapters.attach(model, config, 100)
    assert f"{adapters.num_adapter_parameters(model) / 1e6:.2f}" == millions


def test_a_method_that_does_not_fit_is_answered_with_those_that_do():
    with pytest.raises(IncompatibleError, match=r"adaptformer does not fit resnet18.*these do: linear, lora, ssf"):
        adapters.attach(backbone("resnet18"), AdapterConfig("adaptformer"))


def test_the_formulas_of_the_papers_hold_on_one_layer():
    generator = torch.Generator().manual_seed(0)
    model = attached("vit_tiny_patch16_224", "lora")
    site, x = dict(adapters.adapter_of(model).items())["blocks.1.attn.qkv"], torch.randn(2, 5, 192, generator=generator)
    layer = model.blocks[1].attn.qkv
    plain = torch.nn.functional.linear(x, layer.weight, layer.bias)
    update = [0.5 * x @ (site.up[i] @ site.down[i]).T for i in (0, 1)]
    torch.testing.assert_close(layer(x), plain + torch.cat([update[0], torch.zeros(2, 5, 192), update[1]], -1))

    model = attached("vit_tiny_patch16_224", "adaptformer")
    site, mlp = dict(adapters.adapter_of(model).items())["blocks.1.mlp"], model.blocks[1].mlp
    branch = (x @ site.down.weight.T + site.down.bias).clamp(min=0) @ site.up.weight.T + site.up.bias
    torch.testing.assert_close(mlp(x), mlp.fc2(mlp.act(mlp.fc1(x))) + 0.1 * branch)


def test_a_seed_fixes_the_initial_weights_and_leaves_the_global_generator_alone():
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    models = [adapters.attach(backbone("resnet18"), AdapterConfig("lora"), 5, seed=7) for _ in range(2)]
    torch.manual_seed(3)
    adapters.attach(timm.create_model("task2vec_vit_patch4_32"), AdapterConfig("ssf"), 5, seed=1)
    torch.manual_seed(3)
    assert torch.rand(1) == expected
    for one, other in zip(*(adapters.tuned_parameters(m).values() for m in models), strict=True):
        torch.testing.assert_close(one, other, atol=0, rtol=0)


def test_a_network_that_is_not_timms_can_be_tuned_too():
    model = torch.nn.Sequential(
        torch.nn.Conv2d(3, 8, 3),
        torch.nn.ReLU(),
        torch.nn.AdaptiveAvgPool2d(1),
        torch.nn.Flatten(),
        torch.nn.Linear(8, 2),
    )
    adapters.attach(model, AdapterConfig("ssf"), 5)
    outputs = model(torch.ones(1, 3, 8, 8))
    assert outputs.shape == (1, 5)
    assert set(adapters.tuned_parameters(model)) == {
        "adapter.sites.0.scale",
        "adapter.sites.0.shift",
        "4.weight",
        "4.bias",
    }
    np.testing.assert_allclose(adapters.merge(model)(torch.ones(1, 3, 8, 8)).detach(), outputs.detach(), atol=1e-6)
