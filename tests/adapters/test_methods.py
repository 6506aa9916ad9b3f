"""Every method on every backbone family it fits: what is trained, starting point, merging, saving."""

import copy
from collections import OrderedDict

import numpy as np
import pytest
import timm
import torch
from timm.layers import LayerNormAct2d
from timm.layers.norm_act import GroupNorm1Act
from timm.models.resnetv2 import ResNetV2
from timm.optim import create_optimizer_v2
from torch import nn

import adapters
from adapters import METHODS, AdapterConfig, ConfigError, IncompatibleError, MergeError
from adapters.sites import classifier_names
from tests.adapters.families import FAMILIES, NUM_CLASSES, attach, backbone, create, fits, images

CONFIGS = {
    "linear": AdapterConfig("linear"),
    "full": AdapterConfig("full"),
    "full late": AdapterConfig("full", blocks=(1,)),
    "bitfit": AdapterConfig("bitfit"),
    "norm": AdapterConfig("norm"),
    "residual_serial": AdapterConfig("residual_serial"),
    "residual_serial alone": AdapterConfig("residual_serial", batch_norm=False),
    "residual_parallel": AdapterConfig("residual_parallel"),
    "residual_parallel alone": AdapterConfig("residual_parallel", batch_norm=False),
    "houlsby": AdapterConfig("houlsby", bottleneck=4),
    "pfeiffer": AdapterConfig("pfeiffer", bottleneck=3),
    "adaptformer": AdapterConfig("adaptformer", bottleneck=4),
    "adaptformer before the norm": AdapterConfig("adaptformer", bottleneck=4, normalised=False),
    "vpt_shallow": AdapterConfig("vpt_shallow", prompts=3),
    "vpt_shallow one block": AdapterConfig("vpt_shallow", prompts=3, blocks=(1,)),
    "vpt_deep": AdapterConfig("vpt_deep", prompts=3),
    "pixel_prompt": AdapterConfig("pixel_prompt", frame=0.0625),
    "pixel_prompt resized": AdapterConfig("pixel_prompt", frame=0.0625, resized=True),
    "ssf": AdapterConfig("ssf"),
    "ssf late": AdapterConfig("ssf", blocks=(1,)),
    "lora": AdapterConfig("lora", rank=3, scale=0.5),
    "conv_adapter": AdapterConfig("conv_adapter"),
    "repadapter": AdapterConfig("repadapter", bottleneck=4),
    "fact": AdapterConfig("fact", rank=3),
    "head2toe": AdapterConfig("head2toe", cells=2),
    "head2toe of a block": AdapterConfig("head2toe", cells=1, blocks=(1,)),
    "gps": AdapterConfig("gps", connections=2),
    "fish": AdapterConfig("fish", share=0.02),
}
OTHER_NORMS = ("MLP-Mixer", "SwinV2")  # something lies between norm and MLP, or the norm comes afterwards
STARTS_ELSEWHERE = ("vpt_shallow", "vpt_deep", "pixel_prompt resized", "ssf")  # as their papers have it
STARTS_NEAR = {"houlsby": 1e-2, "pfeiffer": 1e-2}

PAIRS = [
    (f, c)
    for f in FAMILIES
    for c in CONFIGS
    if fits(f, CONFIGS[c].method) and not (f in OTHER_NORMS and c == "adaptformer before the norm")
]
MERGING = [(f, c) for f, c in PAIRS if not METHODS[CONFIGS[c].method].cannot_merge]

LIKE_OTHERS = ("ViT, registers", "CLIP", "EVA-02", "ConvNeXt, 1 x 1", "ResNet, bottleneck", "EfficientNet")


def cases(pairs):
    """Pairs of a family and a config; families that resemble another one are left to the slow tests."""
    return [pytest.param(f, c, marks=[pytest.mark.slow] if f in LIKE_OTHERS else []) for f, c in pairs]


def disturb(model):
    """Move what is tuned away from where it starts."""
    generator = torch.Generator().manual_seed(1)
    for tensor in adapters.tuned_tensors(model).values():
        if tensor.is_floating_point():
            tensor.data += 0.1 * torch.rand(tensor.shape, generator=generator).to(tensor)
    return model.eval()


def attached(family, config, dtype=torch.float32):
    return disturb(attach(backbone(family, dtype), CONFIGS[config], NUM_CLASSES, seed=0))


def test_every_method_is_tested():
    assert {config.method for config in CONFIGS.values()} == set(METHODS)


@pytest.mark.parametrize(("family", "config"), cases(PAIRS))
def test_only_what_is_tuned_gets_gradients_and_detaching_restores_the_backbone(family, config):
    plain = backbone(family)
    before = copy.deepcopy(plain.state_dict())
    with torch.no_grad():
        expected = plain(images(family))
    model = attach(plain, CONFIGS[config], NUM_CLASSES, seed=0)
    tuned = {id(p) for p in adapters.tuned_parameters(disturb(model)).values()}
    assert tuned == {id(p) for p in model.parameters() if p.requires_grad}
    model(images(family)).square().sum().backward()
    without = [name for name, p in model.named_parameters() if id(p) in tuned and p.grad is None]
    assert without == []
    assert all(p.grad is None for p in model.parameters() if id(p) not in tuned)
    adapters.detach(model)
    assert all(p.requires_grad for p in model.parameters())
    after = model.state_dict()
    assert after.keys() == before.keys()
    assert all(torch.equal(after[name], before[name]) for name in before)
    with torch.no_grad():
        torch.testing.assert_close(model(images(family)), expected, atol=0, rtol=0)


@pytest.mark.parametrize(("family", "config"), cases((f, c) for f, c in PAIRS if not c.startswith(STARTS_ELSEWHERE)))
@torch.no_grad()
def test_methods_that_start_from_the_backbone_change_nothing_at_first(family, config):
    expected = backbone(family)(images(family))
    model = attach(backbone(family), CONFIGS[config])  # without num_classes the classifier stays
    tolerance = STARTS_NEAR.get(CONFIGS[config].method, 0)
    torch.testing.assert_close(model(images(family)), expected, atol=tolerance, rtol=tolerance)


@pytest.mark.parametrize(("family", "config"), MERGING)
@torch.no_grad()
def test_a_merged_model_is_a_plain_timm_model_with_the_same_outputs(family, config):
    inputs = images(family, torch.float64)
    plain = backbone(family, torch.float64)(inputs)
    model = attached(family, config, torch.float64)
    outputs = model(inputs)
    merged = adapters.merge(model)
    assert (outputs - plain).abs().max() > 1e-3  # there is something to merge
    torch.testing.assert_close(merged(inputs), outputs, atol=1e-10, rtol=1e-10)
    torch.testing.assert_close(model(inputs), outputs, atol=0, rtol=0)  # the original stays as it is
    fresh = create(family).double().eval()
    fresh.load_state_dict(merged.state_dict(), strict=True)
    torch.testing.assert_close(fresh(inputs), outputs, atol=1e-10, rtol=1e-10)


@pytest.mark.parametrize("family", ["ViT", "ResNet, basic"])
@torch.no_grad()
def test_merging_keeps_single_precision(family):
    model = attached(family, "ssf")
    merged = adapters.merge(model)
    assert {tensor.dtype for tensor in merged.parameters()} == {torch.float32}
    torch.testing.assert_close(merged(images(family)), model(images(family)), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("method", ["residual_serial", "residual_parallel", "ssf", "lora", "gps"])
@torch.no_grad()
def test_a_model_whose_channels_lie_last_in_memory_merges_as_any_other(method):
    model = attached("ResNet, basic", method).to(memory_format=torch.channels_last)
    x = images("ResNet, basic").to(memory_format=torch.channels_last)
    torch.testing.assert_close(adapters.merge(model)(x), model(x), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("method", [name for name, method in METHODS.items() if method.cannot_merge])
def test_methods_that_cannot_merge_say_why(method):
    model = attached("ResNet, basic" if method == "conv_adapter" else "ViT", method)
    with pytest.raises(MergeError, match=f"{method} cannot merge: .* (lies between|tokens|image|on the way)"):
        adapters.merge(model)


def test_a_merge_refuses_numbers_that_are_not_finite_and_kernels_that_are_standardised():
    model = attached("ResNet, basic", "ssf")
    next(iter(adapters.tuned_parameters(model).values())).data[0] = float("nan")
    with pytest.raises(MergeError, match="has NaN or infinite values"):
        adapters.merge(model)
    standardised = adapters.attach(ResNetV2((1, 1, 1, 1), channels=(128, 128, 128, 128), stem_chs=32), CONFIGS["ssf"])
    with pytest.raises(MergeError, match=r"ssf cannot merge into stem\.conv: its kernel is standardised"):
        adapters.merge(standardised)


@pytest.mark.parametrize(("family", "config"), cases(PAIRS))
@torch.no_grad()
def test_saving_and_loading_gives_the_same_outputs(family, config, tmp_path):
    model = attached(family, config)
    adapters.save(model, tmp_path, class_names=tuple("abcd"))
    loaded = adapters.load(backbone(family), tmp_path).eval()
    torch.testing.assert_close(loaded(images(family)), model(images(family)), atol=0, rtol=0)
    assert adapters.adapter_of(loaded).config == CONFIGS[config]


@pytest.mark.parametrize(
    ("config", "millions"),
    [
        (AdapterConfig("ssf"), "0.21"),
        (AdapterConfig("lora", rank=8), "0.29"),
        (AdapterConfig("pfeiffer", bottleneck=8), "0.16"),
        (AdapterConfig("adaptformer", bottleneck=8), "0.16"),
        (AdapterConfig("bitfit"), "0.10"),
        (AdapterConfig("vpt_shallow", prompts=100), "0.08"),
    ],
)
def test_parameter_counts_on_vit_base_are_the_published_ones(config, millions):
    with torch.device("meta"):
        model = timm.create_model("vit_base_patch16_224")
        adapters.attach(model, config, 100)
    assert f"{adapters.num_adapter_parameters(model) / 1e6:.2f}" == millions


@pytest.mark.parametrize(("family", "method"), [(f, m) for f in FAMILIES for m in METHODS if not fits(f, m)])
def test_a_method_that_does_not_fit_is_answered_with_those_that_do(family, method):
    name = FAMILIES[family][0]
    fitting = ", ".join(sorted(other for other in METHODS if fits(family, other)))
    with pytest.raises(
        IncompatibleError, match=rf"{method} does not fit {name} .*, which lacks .*; these do: {fitting}$"
    ):
        adapters.attach(create(family), AdapterConfig(method))


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (AdapterConfig("lora", rank=4000), "rank=4000 exceeds the full rank 128"),
        (AdapterConfig("fact", rank=129), "rank=129 exceeds the full rank 128"),
        (AdapterConfig("houlsby", bottleneck=129), r"bottleneck=129 exceeds the width 128 of blocks\.0\.attn"),
        (AdapterConfig("repadapter", bottleneck=129), r"bottleneck=129 exceeds the width 128 of blocks\.0\.attn\.qkv"),
        (AdapterConfig("vpt_deep", prompts=129), "prompts=129 exceeds the token budget 128, twice the backbone's 64"),
        (AdapterConfig("pixel_prompt", frame=0.01), "less than a pixel"),
        (AdapterConfig("ssf", blocks=(5, 6)), r"blocks=\(5, 6\) lie outside the backbone's blocks 0 to 5"),
        (AdapterConfig("ssf", targets=("nowhere",)), "targets='nowhere' fits no module"),
    ],
)
def test_sizes_and_places_that_do_not_fit_are_refused_and_leave_the_backbone_alone(config, message):
    model = backbone("ViT, average pooling")
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(ConfigError, match=message):
        adapters.attach(model, config, 7)
    assert all(p.requires_grad for p in model.parameters())
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_a_reduction_beyond_the_channels_is_refused():
    with pytest.raises(ConfigError, match=r"reduction=65 exceeds the 64 channels of layer1\.0\.conv1"):
        adapters.attach(create("ResNet, basic"), AdapterConfig("conv_adapter", reduction=65))


def site(model, name):
    return next(part.adapter for part in adapters.adapter_of(model).parts if part.site == name)


def test_the_formulas_of_the_papers_hold_on_one_transformer_layer():
    x = torch.randn(2, 5, 192, generator=torch.Generator().manual_seed(0))

    model = attached("ViT", "lora")
    part, layer = site(model, "blocks.1.attn.qkv"), model.blocks[1].attn.qkv
    plain = torch.nn.functional.linear(x, layer.weight, layer.bias)
    update = [0.5 * x @ (part.up[i] @ part.down[i]).T for i in (0, 1)]
    torch.testing.assert_close(layer(x), plain + torch.cat([update[0], torch.zeros(2, 5, 192), update[1]], -1))

    model = attached("ViT", "adaptformer")
    part, mlp = site(model, "blocks.1.mlp"), model.blocks[1].mlp
    branch = (x @ part.down.weight.T + part.down.bias).clamp(min=0) @ part.up.weight.T + part.up.bias
    torch.testing.assert_close(mlp(x), mlp.fc2(mlp.act(mlp.fc1(x))) + 0.1 * branch)

    model = attached("ViT", "adaptformer before the norm")  # the authors' code: the block's features themselves
    block = model.blocks[1]
    part, middle = site(model, "blocks.1.mlp"), x + block.attn(block.norm1(x))
    branch = (middle @ part.down.weight.T + part.down.bias).clamp(min=0) @ part.up.weight.T + part.up.bias
    mlp_alone = block.mlp.fc2(block.mlp.act(block.mlp.fc1(block.norm2(middle))))
    torch.testing.assert_close(block(x), middle + mlp_alone + 0.1 * branch)

    model = attached("ViT", "pfeiffer")
    part, mlp = site(model, "blocks.1.mlp"), model.blocks[1].mlp
    h = mlp.fc2(mlp.act(mlp.fc1(x)))
    branch = (h @ part.down.weight.T + part.down.bias).clamp(min=0) @ part.up.weight.T + part.up.bias
    torch.testing.assert_close(mlp(x), h + branch)

    model = attached("ViT", "repadapter")
    part, fc1 = site(model, "blocks.1.mlp.fc1"), model.blocks[1].mlp.fc1
    hidden = x @ part.down.weight.T + part.down.bias
    branch = torch.cat([hidden[..., :2] @ part.up[0].T, hidden[..., 2:] @ part.up[1].T], dim=-1) + part.shift
    torch.testing.assert_close(fc1(x), torch.nn.functional.linear(x + branch, fc1.weight, fc1.bias))

    model = attached("ViT", "fact")
    part, fc2 = site(model, "blocks.1.mlp.fc2"), model.blocks[1].mlp.fc2
    wide = torch.randn(2, 5, 768, generator=torch.Generator().manual_seed(0))
    update = sum(
        wide[..., q * 192 : (q + 1) * 192] @ (part.left @ part.core[:, q * 3 : (q + 1) * 3] @ part.right).T
        for q in range(4)
    )
    torch.testing.assert_close(fc2(wide), torch.nn.functional.linear(wide, fc2.weight, fc2.bias) + update)
    assert site(model, "blocks.0.attn.qkv").left is part.left


def test_the_formulas_of_the_papers_hold_on_one_convolution():
    x = torch.randn(2, 16, 9, 9, generator=torch.Generator().manual_seed(0))
    conv2d = torch.nn.functional.conv2d
    for config, formula in {
        "residual_serial": lambda part, f: f + conv2d(f, part.alpha),
        "residual_parallel": lambda part, f: f + conv2d(x, part.alpha, stride=2),
        "conv_adapter": lambda part, f: (
            f
            + part.scale[:, None, None]
            * conv2d(conv2d(x, part.down.weight, stride=2, padding=1, groups=4).clamp(min=0), part.up)
        ),
    }.items():
        model = attached("ResNet, basic", config)
        layer = model.layer2[0].conv1
        expected = formula(site(model, "layer2.0.conv1"), conv2d(x, layer.weight, stride=2, padding=1))
        torch.testing.assert_close(layer(x), expected, msg=config)


def test_prompts_start_within_the_bound_of_the_authors_code():
    """sqrt(6 / (3 p^2 + d)): 0.079 for ViT-Ti and 0.062 for ViT-B, both with patches of 16 pixels."""
    for name, width in (("vit_tiny_patch16_224", 192), ("vit_base_patch16_224", 768)):
        model = timm.create_model(name, img_size=64, depth=1)
        adapters.attach(model, AdapterConfig("vpt_deep", prompts=20), NUM_CLASSES, seed=0)
        largest = float(site(model, "blocks.0").prompts.detach().abs().max())
        bound = (6 / (3 * 16 * 16 + width)) ** 0.5
        assert 0.99 * bound < largest <= bound


@pytest.mark.parametrize("family", OTHER_NORMS)
def test_a_branch_before_the_norm_is_refused_where_the_norm_does_not_precede_the_mlp(family):
    model = backbone(family)
    with pytest.raises(ConfigError, match="leave normalised=False out"):
        adapters.attach(model, AdapterConfig("adaptformer", bottleneck=4, normalised=False), NUM_CLASSES)
    assert not hasattr(model, "adapters")


def test_prompts_go_between_prefix_and_image_tokens_and_out_again():
    for config, after_each_block in (("vpt_deep", 1 + 16), ("vpt_shallow", 1 + 3 + 16)):
        model, seen = attached("ViT", config), []
        model.blocks[1].norm1.register_forward_pre_hook(lambda _, args, seen=seen: seen.append(args[0]))
        model.blocks[0].register_forward_hook(lambda _, args, output, seen=seen: seen.append(output))
        features = model.forward_features(images("ViT"))
        assert seen[0].shape[1] == after_each_block
        assert seen[1].shape[1] == 1 + 3 + 16
        assert features.shape[1] == 1 + 16
        if config == "vpt_deep":
            prompts = site(model, "blocks.1").prompts
            torch.testing.assert_close(seen[1][:, 1:4], prompts.expand(2, -1, -1), atol=0, rtol=0)


def test_a_pixel_prompt_is_a_frame_on_the_image_or_around_the_resized_one():
    model, seen, x = attached("ViT", "pixel_prompt"), [], images("ViT")
    model.patch_embed.proj.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    model(x)
    part = site(model, "patch_embed.proj")
    torch.testing.assert_close(seen[0][:, :, 4:-4, 4:-4], x[:, :, 4:-4, 4:-4], atol=0, rtol=0)
    torch.testing.assert_close(seen[0][0, :, -4:], x[0, :, -4:] + part.rows[1])
    torch.testing.assert_close(seen[0][1, :, 4:-4, :4], x[1, :, 4:-4, :4] + part.columns[0])

    model, seen = attached("ViT", "pixel_prompt resized"), []
    model.patch_embed.proj.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    model(x)
    part = site(model, "patch_embed.proj")
    small = torch.nn.functional.interpolate(x, (56, 56), mode="bilinear", antialias=True)
    torch.testing.assert_close(seen[0][:, :, 4:-4, 4:-4], small, atol=0, rtol=0)
    torch.testing.assert_close(seen[0][0, :, :4], part.rows[0])
    torch.testing.assert_close(seen[0][1, :, 4:-4, -4:], part.columns[1])
    with pytest.raises(ConfigError, match="made for images of 3 x 64 x 64, not 3 x 32 x 32"):
        model.patch_embed.proj(torch.zeros(1, 3, 32, 32))


@pytest.mark.parametrize("scale", [1.0, -0.5, 1e-3])
def test_the_scales_gradient_taken_from_the_output_is_the_true_one(scale):
    from adapters.methods.ssf import ScaleShift

    layer = torch.nn.Linear(3, 4).double()
    part = ScaleShift(layer, channel_axis=-1, keeps_output=True)
    part.scale.data.mul_(scale)
    u = torch.randn(2, 5, 4, dtype=torch.float64, requires_grad=True)

    def through(u, g, s):
        return torch.func.functional_call(part, {"scale": g, "shift": s}, (u, u))

    assert torch.autograd.gradcheck(through, (u, part.scale, part.shift), eps=1e-7, atol=1e-5)


def test_batch_norms_of_its_own_are_tuned_and_the_backbones_stay():
    config = AdapterConfig("residual_parallel", batch_norm=True, epochs=1)
    model = adapters.attach(backbone("ResNet, basic"), config, 3, seed=0)
    before = {name: tensor.clone() for name, tensor in adapters.tuned_tensors(model).items()}
    data = [(image, i % 3) for i, image in enumerate(images("ResNet, basic", count=6))]
    adapters.fit(model, data, batch_size=6, progress=False)
    after = adapters.tuned_tensors(model)
    assert not torch.equal(before["layer1.0.bn1/running_mean"], after["layer1.0.bn1/running_mean"])
    assert not torch.equal(before["conv1.1/running_mean"], after["conv1.1/running_mean"])  # the stem's too
    adapters.detach(model)
    plain = backbone("ResNet, basic")
    torch.testing.assert_close(model.conv1[1].running_mean, plain.conv1[1].running_mean, atol=0, rtol=0)
    torch.testing.assert_close(model.layer1[0].bn1.running_mean, plain.layer1[0].bn1.running_mean, atol=0, rtol=0)


@pytest.mark.parametrize(
    ("family", "targets", "sites"),
    [
        ("ViT", ("q", "v"), {"blocks.0.attn.qkv", "blocks.1.attn.qkv", "blocks.2.attn.qkv"}),
        ("ViT", ("attn.proj",), {"blocks.0.attn.proj", "blocks.1.attn.proj", "blocks.2.attn.proj"}),
        ("ViT", ("k", "blocks.1.mlp.fc1"), {*(f"blocks.{i}.attn.qkv" for i in range(3)), "blocks.1.mlp.fc1"}),
        ("ResNet, basic", ("layer3.0.conv2",), {"layer3.0.conv2"}),
        ("ConvNeXt", ("fc2",), {f"stages.{i}.blocks.0.mlp.fc2" for i in range(4)}),
    ],
)
@torch.no_grad()
def test_lora_goes_to_the_targets_and_merges_there(family, targets, sites):
    config = AdapterConfig("lora", rank=2, targets=targets)
    model = disturb(adapters.attach(backbone(family, torch.float64), config, NUM_CLASSES, seed=0))
    assert {part.site for part in adapters.adapter_of(model).parts} == sites
    x = images(family, torch.float64)
    torch.testing.assert_close(adapters.merge(model)(x), model(x), atol=1e-10, rtol=1e-10)


def test_a_seed_fixes_the_initial_weights_and_leaves_the_global_generator_alone():
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    models = [adapters.attach(backbone("ResNet, basic"), AdapterConfig("lora"), 5, seed=7) for _ in range(2)]
    torch.manual_seed(3)
    adapters.attach(backbone("ViT, average pooling"), AdapterConfig("ssf"), 5, seed=1)
    torch.manual_seed(3)
    assert torch.rand(1) == expected
    for one, other in zip(*(adapters.tuned_parameters(m).values() for m in models), strict=True):
        torch.testing.assert_close(one, other, atol=0, rtol=0)


def small_network():
    return torch.nn.Sequential(
        torch.nn.Conv2d(3, 8, 3),
        torch.nn.ReLU(),
        torch.nn.AdaptiveAvgPool2d(1),
        torch.nn.Flatten(),
        torch.nn.Linear(8, 8),
        torch.nn.Linear(8, 2),
    )


@pytest.mark.parametrize(
    ("config", "names"),
    [
        (AdapterConfig("ssf"), {"0/scale", "0/shift", "4/scale", "4/shift"}),
        (AdapterConfig("lora", targets=("4",), rank=2), {"4/down", "4/up"}),
        (
            AdapterConfig("pfeiffer", targets=("4",), bottleneck=2),
            {f"4/{p}.{t}" for p in ("down", "up") for t in ("weight", "bias")},
        ),
        (AdapterConfig("full"), {"0/weight", "0/bias", "4/weight", "4/bias"}),
        (AdapterConfig("residual_parallel", targets=("0",)), None),
        (AdapterConfig("residual_serial", targets=("0",)), {"0/alpha"}),
    ],
)
def test_a_network_that_is_not_timms_can_be_tuned_at_sites_that_are_named(config, names):
    model, x = small_network(), torch.rand(2, 3, 8, 8)
    if names is None:  # its convolution has no padding, and so no centre
        with pytest.raises(IncompatibleError, match=r"residual_parallel does not fit Sequential.* in targets="):
            adapters.attach(model, config, 5)
        return
    disturb(adapters.attach(model, config, 5))
    assert model(x).shape == (2, 5)
    assert set(adapters.tuned_parameters(model)) == names | {"5/weight", "5/bias"}
    if not METHODS[config.method].cannot_merge:
        np.testing.assert_allclose(adapters.merge(model)(x).detach(), model(x).detach(), atol=1e-6)


@pytest.mark.parametrize("family", ["ViT", "Swin", "ResNet, basic", "MobileViT"])
def test_head2toe_reads_each_ninth_of_the_image_at_three_depths(family):
    model = attached(family, "head2toe of a block")
    adapters.attach(model, AdapterConfig("head2toe"), NUM_CLASSES, name="three depths", seed=0)
    disturb(model)
    head = model.get_submodule(classifier_names(model)[0])
    taken, features = {}, []
    for reading in head.readings:
        module = model.get_submodule(reading.site)
        module.register_forward_hook(lambda _, a, o, reading=reading: taken.__setitem__(reading.site, o))
    head.register_forward_pre_hook(lambda _, args: features.append(args[0]))
    inputs = images(family)
    with torch.no_grad():
        logits = model(inputs)
    columns = features
    for reading in head.readings:
        output = taken[reading.site]
        if output.ndim == 4:
            maps = output if output.shape[1] == reading.width else output.permute(0, 3, 1, 2)
        else:
            side = int(output.shape[1] ** 0.5)
            maps = output[:, -(side**2) :].reshape(len(output), side, side, -1).permute(0, 3, 1, 2)
        cells = torch.nn.AdaptiveAvgPool2d(3)(maps).reshape(len(inputs), -1, 9 * reading.width).mean(1)
        columns.append((cells - cells.mean(1, True)) / (cells.var(1, unbiased=False, keepdim=True) + 1e-5).sqrt())
    expected = torch.cat(columns, dim=1) @ head.weight.T + head.bias
    torch.testing.assert_close(logits, expected, rtol=1e-4, atol=1e-4)


def test_a_layer_that_is_named_twice_is_adapted_once():
    model = attach(backbone("ViT"), AdapterConfig("lora", rank=2, targets=("q", "qkv")), 3, seed=0)
    adapter = adapters.adapter_of(model)
    assert len(adapter.parts) == len(adapter.sites) == len({part.site for part in adapter.parts})
    other = attach(backbone("ViT"), AdapterConfig("lora", rank=2, targets=("qkv",)), 3, seed=0)
    assert adapters.num_adapter_parameters(model) == adapters.num_adapter_parameters(other)


@pytest.mark.parametrize("method", ["houlsby", "pfeiffer", "adaptformer"])
def test_a_target_without_layers_is_refused(method):
    with pytest.raises(ConfigError, match="norm1 has no plain linear layer or convolution to adapt"):
        attach(backbone("ViT"), AdapterConfig(method, targets=("norm1",)), 3)


class Tied(nn.Module):
    """Two layers of one weight."""

    def __init__(self):
        super().__init__()
        self.one, self.two, self.head = nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 3)
        self.two.weight = self.one.weight

    def forward(self, x):
        return self.head(self.two(torch.relu(self.one(x))))


@pytest.mark.parametrize("method", ["lora", "ssf", "full", "bitfit"])
def test_what_would_be_folded_twice_into_one_weight_is_not_merged(method):
    targets = {"targets": ("one", "two"), "rank": 2} if method == "lora" else {}
    model = attach(Tied(), AdapterConfig(method, **targets), 3, seed=0)
    with pytest.raises(MergeError, match="cannot merge into one: another layer has the same weight"):
        adapters.merge(model)


def test_a_layer_that_goes_by_two_names_is_folded_once():
    torch.manual_seed(0)
    net = Tied()
    net.two = net.one
    model = disturb(attach(net, AdapterConfig("lora", rank=2, targets=("one",)), 3, seed=0))
    inputs = torch.randn(4, 8)
    with torch.no_grad():
        torch.testing.assert_close(adapters.merge(model)(inputs), model(inputs), atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("norm", [GroupNorm1Act, LayerNormAct2d])
def test_scales_of_a_norm_with_an_activation_come_before_the_activation(norm):
    torch.manual_seed(0)
    net = nn.Sequential(OrderedDict(conv=nn.Conv2d(3, 8, 3, 2, 1), norm=norm(8), pool=nn.AdaptiveAvgPool2d(1)))
    net.add_module("flat", nn.Flatten())
    net.add_module("head", nn.Linear(8, 3))
    model = disturb(adapters.attach(net, AdapterConfig("ssf"), 3, seed=0)).eval()
    inputs = torch.randn(2, 3, 16, 16)
    with torch.no_grad():
        torch.testing.assert_close(adapters.merge(model)(inputs), model(inputs), atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize(
    ("name", "method", "expected"),
    [
        ("pvt_v2_b0", "lora", {"attn.q", "attn.kv"}),  # values are packed with keys
        ("tiny_vit_5m_224", "houlsby", {"attn", "mlp"}),
        ("efficientformer_l1", "lora", {"token_mixer.qkv"}),  # queries narrower than values: updated as a whole
    ],
)
def test_a_method_is_wherever_it_says(name, method, expected):
    model = adapters.attach(timm.create_model(name), AdapterConfig(method), 3, seed=0)
    parts = adapters.adapter_of(model).parts
    endings = {".".join(part.site.split(".")[-len(ending.split(".")) :]) for part in parts for ending in expected}
    assert expected <= endings
    if name == "pvt_v2_b0":
        (part, *_) = [part for part in parts if part.site.endswith("kv")]
        down, up = part.adapter.factors()
        assert not up[: len(up) // 2].any()  # the keys stay
        assert down.shape == (8, part.module.in_features)
    if name == "efficientformer_l1":
        (part, *_) = [part for part in parts if part.site.endswith("qkv")]
        assert part.adapter.up.shape == (part.module.out_features, 8)


def test_weight_decay_spares_what_is_one_number_a_channel():
    model = adapters.attach(backbone("ResNet, basic"), AdapterConfig("conv_adapter"), 3)
    groups = create_optimizer_v2(model, opt="adamw", lr=1e-3, weight_decay=0.1).param_groups
    assert all(p.squeeze().ndim >= 2 for group in groups if group["weight_decay"] for p in group["params"])
