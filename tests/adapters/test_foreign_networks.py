"""Networks that are not timm's: what is adapted, merged and exchanged is what the network computes."""

import copy

import peft
import pytest
import timm
import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations
from torch.utils.data import TensorDataset

import adapters
from adapters import AdapterConfig, CheckpointError, ConfigError, MergeError
from adapters.sites import block_names, walk
from tests.adapters.test_methods import disturb

IMAGES = torch.rand(6, 3, 16, 16, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


class Normalised(nn.Module):
    """A convolution, a normalisation of its output, which may be flattened, and a classifier."""

    def __init__(self, norm, *, flat):
        super().__init__()
        self.conv, self.norm, self.head = nn.Conv2d(3, 16, 4, stride=4), norm, nn.Linear(16, 3)
        self.flat = flat

    def forward(self, x):
        features = self.conv(x).flatten(2) if self.flat else self.conv(x)
        return self.head(F.relu(self.norm(features)).flatten(2).mean(2))


@pytest.mark.parametrize(
    ("norm", "flat"),
    [
        (nn.GroupNorm(4, 16), True),  # 16 channels at 16 places: the axes cannot be told apart by their lengths
        (nn.BatchNorm1d(16), True),
        (nn.BatchNorm2d(16), False),
        (nn.LayerNorm([16, 4, 4]), False),
    ],
    ids=lambda value: type(value).__name__,
)
def test_scales_and_shifts_go_along_the_channels(norm, flat):
    model = adapters.attach(Normalised(norm, flat=flat).double(), AdapterConfig("ssf"), 3, seed=0).eval()
    with torch.no_grad():
        model.adapters["default"].sites["norm"].scale[0] += 1
        everything = model(IMAGES)
        torch.testing.assert_close(model(IMAGES[:1]), everything[:1], atol=1e-12, rtol=0)
        torch.testing.assert_close(model(IMAGES.flip(0)).flip(0), everything, atol=1e-12, rtol=0)
        torch.testing.assert_close(adapters.merge(model).eval()(IMAGES), everything, atol=1e-12, rtol=0)
        scaled, plain = copy.deepcopy(model), model.norm(torch.rand(2, 16, *((16,) if flat else (4, 4))).double())
        site = scaled.adapters["default"].sites["norm"]
        site.shift.zero_()
        factors = site(plain, plain) / plain
        torch.testing.assert_close(factors[0].flatten(1), site.scale[:, None].expand(16, 16), atol=1e-6, rtol=0)


class CalledAndRead(nn.Module):
    """A layer that is called, and whose weight is used once more without a call."""

    def __init__(self):
        super().__init__()
        self.conv, self.layer, self.head = nn.Conv2d(3, 8, 4, stride=4), nn.Linear(8, 8), nn.Linear(8, 3)

    def forward(self, x):
        tokens = F.relu(self.layer(self.conv(x).flatten(2).mT))
        return self.head(F.linear(tokens, self.layer.weight).mean(1))


@pytest.mark.parametrize("config", [AdapterConfig("lora", rank=2, targets=("layer",)), AdapterConfig("ssf")], ids=str)
def test_a_merged_model_that_would_compute_something_else_is_refused(config):
    model = adapters.attach(CalledAndRead().double(), config, 3, seed=0).eval()
    model(IMAGES)
    disturb(model)
    with pytest.raises(MergeError, match="merged into CalledAndRead computes something else"):
        adapters.merge(model)


def test_running_statistics_of_instance_norms_are_kept_for_the_backbone(tmp_path):
    norm = nn.InstanceNorm2d(16, affine=True, track_running_stats=True)
    model = Normalised(norm, flat=False).float()
    fresh = copy.deepcopy(model)
    adapters.attach(model, AdapterConfig("lora", targets=("conv",), rank=2, epochs=2), 3, seed=0)
    adapters.fit(model, TensorDataset(IMAGES.float(), torch.arange(6) % 3), progress=False)
    adapters.save(model, tmp_path)
    adapters.load(fresh, tmp_path)
    torch.testing.assert_close(fresh.eval()(IMAGES.float()), model.eval()(IMAGES.float()), atol=0, rtol=0)


@pytest.mark.parametrize(
    "make", [parametrizations.weight_norm, parametrizations.spectral_norm], ids=lambda m: m.__name__
)
@pytest.mark.parametrize("method", ["ssf", "full", "bitfit"])
def test_weights_that_are_made_of_others_are_no_place_for_an_adapter(make, method):
    plain = nn.Sequential(make(nn.Conv2d(3, 8, 4, stride=4)), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    plain.extend([nn.LayerNorm(8), nn.Linear(8, 3)])
    model = adapters.attach(plain.double(), AdapterConfig(method), 3, seed=0).eval()
    disturb(model)
    torch.testing.assert_close(adapters.merge(model).eval()(IMAGES), model(IMAGES), atol=1e-10, rtol=0)


class Convolution(nn.Module):
    """One convolution and a classifier."""

    def __init__(self, **settings):
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.head = nn.Conv2d(3, 8, 3, padding=1, **settings), nn.Linear(8, 3)

    def forward(self, x):
        return self.head(F.relu(self.conv(x)).mean((2, 3)))


@pytest.mark.parametrize(
    "settings", [{"padding_mode": "reflect"}, {"padding_mode": "circular"}, {"dilation": 2}], ids=str
)
def test_convolutions_that_peft_would_update_otherwise_are_not_exchanged(settings, tmp_path):
    lora = AdapterConfig("lora", rank=2, targets=("conv",))
    model = adapters.attach(Convolution(**settings), lora, 3, seed=0)
    with pytest.raises(CheckpointError, match="PEFT's LoRA of conv would be another one"):
        adapters.to_peft(model, tmp_path / "ours")
    config = peft.LoraConfig(r=2, target_modules=["conv"], modules_to_save=["head"])
    peft.get_peft_model(Convolution(**settings), config).save_pretrained(tmp_path / "theirs")
    with pytest.raises(CheckpointError, match="PEFT's LoRA of conv would be another one"):
        adapters.from_peft(Convolution(**settings), tmp_path / "theirs")


class Nested(nn.Module):
    """A layer whose name is the end of another's."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.fc1, self.inner = nn.Linear(12, 12), nn.ModuleDict({"fc1": nn.Linear(12, 12)})
        self.head = nn.Linear(12, 3)

    def forward(self, x):
        return self.head(F.relu(self.inner["fc1"](F.relu(self.fc1(x.flatten(1)[:, :12])))))


def test_ranks_of_a_layer_whose_name_is_the_end_of_anothers_reach_peft(tmp_path):
    config = AdapterConfig("lora", rank=4, targets=("fc1",), sizes={"fc1": 2})
    model = adapters.attach(Nested(), config, 3, seed=0)
    disturb(model)
    adapters.to_peft(model, tmp_path)
    images = IMAGES.float()
    theirs = peft.PeftModel.from_pretrained(Nested(), tmp_path)
    back = adapters.from_peft(Nested(), tmp_path)
    torch.testing.assert_close(theirs(images), model(images), atol=1e-6, rtol=0)
    torch.testing.assert_close(back(images), model(images), atol=1e-6, rtol=0)


def test_a_classifier_that_timm_would_make_anew_in_another_way_is_loaded(tmp_path):
    """RepViT's constructor makes a second classifier for distillation, and its `reset_classifier` does not."""
    model = timm.create_model("repvit_m0_9", num_classes=3)
    fresh = copy.deepcopy(model)
    adapters.attach(model, AdapterConfig("bitfit"), seed=0)
    disturb(model)
    adapters.save(model, tmp_path)
    adapters.load(fresh, tmp_path)
    images = torch.rand(2, 3, 64, 64)
    torch.testing.assert_close(fresh.eval()(images), model.eval()(images), atol=0, rtol=0)


@pytest.mark.parametrize("name", ["mobilevit_xxs", "mobilevitv2_050", "swin_tiny_patch4_window7_224", "regnetx_002"])
def test_every_numbered_block_has_sites(name):
    """A block within a block is a part of that one."""
    model = timm.create_model(name)
    used = {site.block for site in walk(model)} - {None}
    assert used == set(range(len(block_names(model))))


def test_the_network_that_makes_position_biases_is_no_mlp_of_the_block():
    model = timm.create_model("swinv2_cr_tiny_224", img_size=64, window_size=2)
    adapters.attach(model, AdapterConfig("houlsby"), 3)
    assert not [name for name in adapters.tuned_parameters(model) if "meta_mlp" in name]


def test_adapters_do_not_go_into_a_compiled_model():
    with pytest.raises(ConfigError, match=r"attach before torch\.compile"):
        adapters.attach(torch.compile(Nested()), AdapterConfig("linear"), 3)


def test_what_was_frozen_in_an_adapter_is_still_frozen_after_saving(tmp_path):
    model = adapters.attach(Nested(), AdapterConfig("ssf"), 3, seed=0)
    first, *others = adapters.tuned_parameters(model).values()
    first.requires_grad_(False)
    adapters.save(model, tmp_path)
    adapters.switch(model, None)
    adapters.switch(model, "default")
    assert not first.requires_grad
    assert all(other.requires_grad for other in others)
