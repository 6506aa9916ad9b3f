"""What was attached acts, or attaching it fails: nothing trains to nothing."""

import copy
import io

import pytest
import timm
import torch
import torchvision
from torch import nn
from torch.nn import functional as F

import adapters
from adapters import AdapterConfig, IncompatibleError, TrainingError
from tests.adapters.families import NUM_CLASSES, attach, backbone, images
from tests.adapters.test_methods import disturb

READS_WEIGHTS = ["BEiT", "EVA-02", "SwinV2"]  # call F.linear(x, self.qkv.weight)


class Reading(nn.Module):
    """A network that takes one layer's weight without calling the layer, and ignores another layer altogether."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 4, stride=4)
        self.read = nn.Linear(8, 8)
        self.ignored = nn.Linear(8, 8)
        self.fc = nn.Linear(8, 3)

    def forward(self, x):
        features = self.stem(x).mean((2, 3))
        return self.fc(torch.tanh(F.linear(features, self.read.weight, self.read.bias)))


@pytest.mark.parametrize("family", READS_WEIGHTS)
@pytest.mark.parametrize("method", ["lora", "ssf", "fact"])
def test_weights_that_are_read_without_a_call_are_adapted_and_merged(family, method):
    settings = {"lora": {"rank": 3}, "fact": {"rank": 3}, "ssf": {}}[method]
    plain = backbone(family, torch.float64)
    names = list(plain.state_dict())
    model = adapters.attach(plain, AdapterConfig(method, **settings), NUM_CLASSES, seed=0)
    read = [p.site for p in adapters.adapter_of(model).parts if p.adapter.through_weights]
    assert len(read) == 2
    assert all(site.endswith("attn.qkv") for site in read)
    assert [n for n in model.state_dict() if not n.startswith("adapters.")] == names
    disturb(model)
    inputs = images(family, torch.float64)
    model(inputs).square().sum().backward()
    tuned = adapters.tuned_parameters(model)
    assert all(p.grad is not None and p.grad.abs().max() > 0 for n, p in tuned.items() if n.startswith(tuple(read)))
    with torch.no_grad():
        expected = model(inputs)
        torch.testing.assert_close(copy.deepcopy(model)(inputs), expected, atol=1e-12, rtol=0)
        torch.testing.assert_close(adapters.merge(model)(inputs), expected, atol=1e-10, rtol=1e-10)
        adapters.switch(model, None)
        torch.testing.assert_close(model(inputs), backbone(family, torch.float64)(inputs), atol=0, rtol=0)


def test_a_layer_that_the_network_never_uses_is_refused_by_name_and_leaves_the_backbone_alone():
    model = Reading()
    expected, before = model(torch.ones(1, 3, 8, 8)), dict(model.state_dict())
    config = AdapterConfig("lora", rank=2, targets=("read", "ignored"))
    adapters.attach(model, config, 3)  # it does not say how large its images are: known at the first batch
    data = [(torch.randn(3, 8, 8), i % 3) for i in range(6)]
    with pytest.raises(IncompatibleError, match="lora has no effect at ignored of Reading"):
        adapters.fit(model, data, progress=False)
    adapters.detach(model)
    assert model.state_dict().keys() == before.keys()
    torch.testing.assert_close(model(torch.ones(1, 3, 8, 8)), expected)


def test_an_adapter_that_only_a_hook_could_run_is_refused_where_the_module_is_never_called():
    model = timm.create_model("task2vec_vit_patch4_32")
    for block in model.blocks:
        block.mlp.forward = None  # whoever calls it fails
        block.forward = lambda x, block=block: x + block.attn(block.norm1(x)) + F.linear(x, block.mlp.fc1.weight).mean()
    with pytest.raises(
        IncompatibleError, match=r"pfeiffer has no effect at blocks\.0\.mlp, blocks\.1\.mlp.* and 3 more"
    ):
        adapters.attach(model, AdapterConfig("pfeiffer"), 3)
    assert not hasattr(model, "adapters")


def test_attaching_leaves_modes_gradients_statistics_and_the_generator_alone():
    model = backbone("ResNet, basic").train()
    state = copy.deepcopy(model.state_dict())
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    adapters.attach(model, AdapterConfig("ssf"), NUM_CLASSES, seed=0)
    torch.testing.assert_close(torch.rand(1), expected, atol=0, rtol=0)
    assert all(module.training != isinstance(module, nn.BatchNorm2d) for module in model.modules())
    assert all(p.grad is None for p in model.parameters())
    after = model.state_dict()
    assert all(torch.equal(state[n], after[n]) for n in state if not n.startswith("fc."))


def test_bitfit_trains_the_biases_that_an_attention_keeps_by_itself():
    model = adapters.attach(backbone("BEiT"), AdapterConfig("bitfit"), NUM_CLASSES)
    names = {name.rpartition("/")[2] for name in adapters.tuned_parameters(model)}
    assert {"q_bias", "v_bias", "bias"} <= names
    assert "relative_position_bias_table" not in names


@pytest.mark.parametrize(
    ("family", "targets", "sites"),
    [
        ("ViT", ("proj",), {"patch_embed.proj", *(f"blocks.{i}.attn.proj" for i in range(3))}),
        ("ViT", ("qkv", "proj", "fc1", "fc2"), None),
        ("ResNet, basic", ("conv1",), None),
        ("ViT", ("patch_embed.proj",), {"patch_embed.proj"}),
    ],
)
def test_targets_that_match_the_first_convolution_adapt_it_once(family, targets, sites):
    model = adapters.attach(
        backbone(family, torch.float64), AdapterConfig("lora", rank=2, targets=targets), NUM_CLASSES
    )
    found = [part.site for part in adapters.adapter_of(model).parts]
    assert len(set(found)) == len(found)
    assert sites is None or set(found) == sites
    inputs = images(family, torch.float64)
    with torch.no_grad():
        expected = disturb(model)(inputs)
        torch.testing.assert_close(adapters.merge(model)(inputs), expected, atol=1e-10, rtol=1e-10)


@pytest.mark.parametrize("family", ["ViT", "ResNet, basic"])
def test_a_backbone_that_came_without_a_classifier_is_merged(family):
    name = {"ViT": "vit_tiny_patch16_224", "ResNet, basic": "resnet10t"}[family]
    model = adapters.attach(timm.create_model(name, num_classes=0), AdapterConfig("ssf"), 5)
    merged = adapters.merge(disturb(model))
    assert merged.state_dict().keys() == timm.create_model(name, num_classes=5).state_dict().keys()
    inputs = torch.randn(1, 3, 224, 224)
    with torch.no_grad():
        torch.testing.assert_close(merged(inputs), model(inputs), atol=1e-4, rtol=1e-4)


def test_a_backbone_for_grey_images_or_of_another_size_than_it_names_is_no_hindrance():
    grey = adapters.attach(timm.create_model("resnet10t", in_chans=1), AdapterConfig("ssf"), 3)
    assert adapters.adapter_of(grey).proven
    odd = timm.create_model("vit_tiny_patch16_224", img_size=32, depth=1)
    odd.patch_embed.img_size = (48, 48)  # not what its position embeddings are for
    adapters.attach(odd, AdapterConfig("ssf", epochs=1), 3)
    assert not adapters.adapter_of(odd).proven
    odd.patch_embed.img_size = (32, 32)
    adapters.fit(odd, [(torch.randn(3, 32, 32), i % 3) for i in range(6)], progress=False)
    assert adapters.adapter_of(odd).proven


def test_a_network_that_reads_weights_and_says_no_size_is_proven_by_its_first_images_and_loads_as_it_was(tmp_path):
    """As torch's own attention does of its output layer."""
    torch.manual_seed(0)
    base = torchvision.models.VisionTransformer(16, 8, 1, 2, 16, 32, num_classes=3)
    inputs = torch.randn(4, 3, 16, 16)
    model = adapters.attach(copy.deepcopy(base), AdapterConfig("ssf"), 3, seed=0)
    model(inputs).square().sum().backward()  # in a loop of one's own
    assert [name for name, p in adapters.tuned_parameters(model).items() if p.grad is None] == []
    disturb(model).eval()
    adapters.save(model, tmp_path)
    with torch.no_grad():
        loaded = adapters.load(copy.deepcopy(base), tmp_path).eval()
        torch.testing.assert_close(loaded(inputs), model(inputs), atol=0, rtol=0)
        torch.testing.assert_close(adapters.merge(loaded)(inputs), model(inputs), atol=1e-5, rtol=1e-5)
    adapters.detach(model)
    assert not model._forward_pre_hooks


def test_an_adapter_with_which_the_network_fails_is_refused_and_taken_off():
    class Turned(nn.LayerNorm):
        def forward(self, x):
            return super().forward(x).mT  # channels in the middle

    class Wide(nn.Module):
        def __init__(self):
            super().__init__()
            self.stem, self.norm, self.fc = nn.Conv2d(3, 8, 4, 4), Turned(8), nn.Linear(8, 3)
            self.pretrained_cfg = {"input_size": (3, 8, 8)}

        def forward(self, x):
            return self.fc(self.norm(self.stem(x).flatten(2).mT).mean(2))

    model = Wide()
    expected = model.eval()(torch.ones(2, 3, 8, 8))
    with pytest.raises(IncompatibleError, match="ssf cannot act in Wide"):
        adapters.attach(model, AdapterConfig("ssf"), 3)
    assert not hasattr(model, "adapters")
    torch.testing.assert_close(model(torch.ones(2, 3, 8, 8)), expected)


@pytest.mark.parametrize("method", ["lora", "ssf", "gps"])
def test_a_model_whose_weights_are_read_can_be_pickled(method):
    settings = {"lora": {"rank": 2}}.get(method, {})
    model = disturb(attach(backbone("BEiT"), AdapterConfig(method, **settings), NUM_CLASSES, seed=0)).eval()
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    with torch.no_grad():
        again = torch.load(file, weights_only=False)
        torch.testing.assert_close(again(images("BEiT")), model(images("BEiT")), atol=0, rtol=0)


def test_batch_norms_keep_their_statistics_in_a_loop_of_ones_own(tmp_path):
    base = backbone("ResNet, basic")
    inputs = images("ResNet, basic")
    before = base.eval()(inputs).detach()
    model = adapters.attach(copy.deepcopy(base), AdapterConfig("lora", rank=2), NUM_CLASSES, seed=0).train()
    optimiser = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
    for _ in range(3):
        model(inputs).square().sum().backward()
        optimiser.step()
    tuned = model.eval()(inputs).detach()
    adapters.save(model, tmp_path)
    torch.testing.assert_close(adapters.load(copy.deepcopy(base), tmp_path).eval()(inputs), tuned)
    adapters.detach(model)
    torch.testing.assert_close(model(inputs), before, atol=0, rtol=0)
    assert all(module.training for module in model.train().modules())


def test_batch_norms_that_were_frozen_before_are_so_afterwards():
    model = backbone("ResNet, basic").train()
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    norms[0].eval()
    adapters.attach(model, AdapterConfig("lora", rank=2), NUM_CLASSES)
    adapters.attach(model, AdapterConfig("norm"), NUM_CLASSES, name="norm")
    assert [norm.training for norm in norms] == [False, *[True] * (len(norms) - 1)]
    adapters.switch(model, "default")
    assert not any(norm.training for norm in norms)
    adapters.detach(model)
    assert [norm.training for norm in norms] == [False, *[True] * (len(norms) - 1)]


def test_images_that_the_network_does_not_take_are_not_blamed_on_the_adapter():
    model = adapters.attach(Reading().double(), AdapterConfig("lora", rank=2, targets=("read",)), 3)
    with pytest.raises(TrainingError, match="the images are float32, and Reading is float64"):
        adapters.fit(model, [(torch.randn(3, 8, 8), i % 3) for i in range(6)], progress=False)


def small():
    """A network that does not say what size of image it takes."""
    return nn.Sequential(nn.Conv2d(3, 8, 8), nn.Flatten(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 3))


def test_a_proof_waits_for_images_that_are_computed_and_asks_nothing_of_those_who_froze_the_adapter():
    def model():
        return adapters.attach(small(), AdapterConfig("lora", rank=2, targets=("2",)), 3).eval()

    inputs = torch.randn(2, 3, 8, 8)
    frozen = model().requires_grad_(False)
    assert frozen(inputs).shape == (2, 3)
    assert not any(parameter.requires_grad for parameter in frozen.parameters())
    assert torch.jit.trace(model(), inputs)(inputs).shape == (2, 3)
    assert torch.export.export(model(), (inputs,)).module()(inputs).shape == (2, 3)
    grey = small()
    grey.register_forward_pre_hook(lambda _, args: (args[0].repeat(1, 3, 1, 1),))
    adapters.attach(grey, AdapterConfig("lora", rank=2, targets=("2",)), 3)
    assert grey(inputs[:, :1]).shape == (2, 3)


def test_a_block_that_gives_several_tensors_is_not_read():
    model = timm.create_model("coat_tiny", img_size=32)
    with pytest.raises(IncompatibleError, match=r"head2toe cannot act in CoaT .*gives a tuple instead of one tensor"):
        adapters.attach(model, AdapterConfig("head2toe"), 3)
    assert not hasattr(model, "adapters")
