import pytest
import timm
import torch
from hypothesis import given
from hypothesis import strategies as st

import adapters
from adapters import METHODS, AdapterConfig, ConfigError

SIZES = st.one_of(st.none(), st.integers(1, 512))


@given(
    method=st.sampled_from(sorted(METHODS)),
    size=SIZES,
    blocks=st.one_of(st.none(), st.lists(st.integers(0, 11), min_size=1, max_size=4).map(tuple)),
    targets=st.one_of(st.none(), st.just(("fc1", "blocks.0.attn.proj"))),
    learning_rate=st.one_of(st.none(), st.floats(1e-6, 1)),
    epochs=st.integers(1, 100),
)
def test_a_config_survives_json_and_equals_itself(method, size, blocks, targets, learning_rate, epochs):
    given = {
        **dict.fromkeys(("bottleneck", "rank", "reduction", "prompts"), size),
        "blocks": blocks,
        "targets": targets,
    }
    taken = {name: value for name, value in given.items() if name in METHODS[method].defaults}
    config = AdapterConfig(method, learning_rate=learning_rate, epochs=epochs, **taken)
    again = AdapterConfig.from_dict(config.to_dict())
    assert again == config
    assert hash(again) == hash(config)
    assert again.label == config.label


@pytest.mark.parametrize("method", sorted(METHODS))
def test_what_is_left_out_takes_the_methods_default(method):
    config = AdapterConfig(method)
    for name, value in METHODS[method].defaults.items():
        assert getattr(config, name) == value


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"method": "magic"}, "no method 'magic'; choose from adaptformer, bitfit, conv_adapter, fact, full"),
        ({"method": "ssf", "rank": 4}, "ssf takes no rank; leave rank=4 out"),
        ({"method": "lora", "rank": 0}, "rank=0 must be a whole number"),
        ({"method": "vpt_deep", "prompts": 0}, "prompts=0 must be a whole number"),
        ({"method": "linear", "blocks": (1,)}, r"linear takes no blocks; leave blocks=\(1,\) out"),
        ({"method": "pixel_prompt", "frame": 0.5}, "frame=0.5 must be a share"),
        ({"method": "adaptformer", "bottleneck": -3}, "bottleneck=-3"),
        ({"method": "lora", "rank": 2.5}, "rank=2.5"),
        ({"method": "linear", "learning_rate": 0}, "learning_rate=0"),
        ({"method": "linear", "epochs": 0}, "epochs=0"),
    ],
)
def test_impossible_settings_are_refused_with_their_value(settings, message):
    with pytest.raises(ConfigError, match=message):
        AdapterConfig(**settings)


def test_a_single_class_and_a_second_adapter_of_the_same_name_are_refused():
    model = timm.create_model("task2vec_vit_patch4_32")
    with pytest.raises(ConfigError, match="num_classes=1"):
        adapters.attach(model, AdapterConfig("linear"), 1)
    assert not hasattr(model, "adapters")
    adapters.attach(model, AdapterConfig("linear"), 5)
    with pytest.raises(ConfigError, match="has an adapter 'default' already"):
        adapters.attach(model, AdapterConfig("linear"), 5)
    with pytest.raises(ConfigError, match="give a name without dots"):
        adapters.attach(model, AdapterConfig("linear"), 5, name="a.b")


def test_a_backbone_without_a_classifier_needs_the_number_of_classes():
    model = timm.create_model("task2vec_vit_patch4_32", num_classes=0)
    with pytest.raises(ConfigError, match="has no classifier to start from; give num_classes"):
        adapters.attach(model, AdapterConfig("ssf"))
    adapters.attach(model, AdapterConfig("ssf"), 3)
    assert model(torch.zeros(1, 3, 32, 32)).shape == (1, 3)
    adapters.detach(model)
    assert model(torch.zeros(1, 3, 32, 32)).shape == (1, 128)


def test_a_model_without_an_adapter_is_told_to_attach_one():
    with pytest.raises(ConfigError, match=r"call adapters\.attach"):
        adapters.merge(timm.create_model("resnet18"))
