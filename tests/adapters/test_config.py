import pytest
import timm
from hypothesis import given
from hypothesis import strategies as st

import adapters
from adapters import METHODS, AdapterConfig, ConfigError

SIZES = st.one_of(st.none(), st.integers(1, 512))


@given(
    method=st.sampled_from(sorted(METHODS)),
    size=SIZES,
    blocks=st.one_of(st.none(), st.lists(st.integers(0, 11), min_size=1, max_size=4).map(tuple)),
    learning_rate=st.one_of(st.none(), st.floats(1e-6, 1)),
    epochs=st.integers(1, 100),
)
def test_a_config_survives_json_and_equals_itself(method, size, blocks, learning_rate, epochs):
    sizes = {name: size for name in ("bottleneck", "rank") if name in METHODS[method].defaults}
    config = AdapterConfig(method, blocks=blocks, learning_rate=learning_rate, epochs=epochs, **sizes)
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
        ({"method": "magic"}, "no method 'magic'; choose from adaptformer, linear, lora, ssf"),
        ({"method": "ssf", "rank": 4}, "ssf takes no rank; leave rank=4 out"),
        ({"method": "lora", "rank": 0}, "rank=0 must be a whole number"),
        ({"method": "adaptformer", "bottleneck": -3}, "bottleneck=-3"),
        ({"method": "lora", "rank": 2.5}, "rank=2.5"),
        ({"method": "linear", "learning_rate": 0}, "learning_rate=0"),
        ({"method": "linear", "epochs": 0}, "epochs=0"),
    ],
)
def test_impossible_settings_are_refused_with_their_value(settings, message):
    with pytest.raises(ConfigError, match=message):
        AdapterConfig(**settings)


@pytest.mark.parametrize(
    ("config", "num_classes", "message"),
    [
        (AdapterConfig("lora", rank=4000), 5, "rank=4000 exceeds the full rank 128"),
        (AdapterConfig("ssf", blocks=(5, 6)), 5, r"blocks=\(5, 6\) lie outside the backbone's blocks 0 to 5"),
        (AdapterConfig("linear"), 1, "num_classes=1"),
    ],
)
def test_settings_that_do_not_fit_the_backbone_are_refused_and_leave_it_alone(config, num_classes, message):
    model = timm.create_model("task2vec_vit_patch4_32")
    with pytest.raises(ConfigError, match=message):
        adapters.attach(model, config, num_classes)
    assert all(p.requires_grad for p in model.parameters())
    adapters.attach(model, AdapterConfig("linear"), 5)
    with pytest.raises(ConfigError, match="has an adapter already"):
        adapters.attach(model, AdapterConfig("linear"), 5)


def test_a_model_without_an_adapter_is_told_to_attach_one():
    with pytest.raises(ConfigError, match=r"call adapters\.attach"):
        adapters.merge(timm.create_model("resnet18"))
