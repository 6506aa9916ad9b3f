import copy
import dataclasses
import json
import pickle
from pathlib import Path

import pytest
import timm
import torch
from hypothesis import given
from hypothesis import strategies as st

import adapters
from adapters import METHODS, AdapterConfig, ConfigError

SIZES_OF_TWO = {"blocks.0.attn.qkv": 4, "blocks.1.attn.qkv": 0}
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
        ({"method": "magic"}, "no method 'magic'; choose from adaptformer, bitfit, conv_adapter, fact, fish, full"),
        ({"method": "ssf", "rank": 4}, "ssf takes no rank; leave rank=4 out"),
        ({"method": "lora", "rank": 0}, "rank=0 must be a whole number"),
        ({"method": "vpt_deep", "prompts": 0}, "prompts=0 must be a whole number"),
        ({"method": "linear", "blocks": (1,)}, r"linear takes no blocks; leave blocks=\(1,\) out"),
        ({"method": "pixel_prompt", "frame": 0.5}, "frame=0.5 must be a number above 0 and below 0.5"),
        ({"method": "adaptformer", "bottleneck": -3}, "bottleneck=-3"),
        ({"method": "lora", "rank": 2.5}, "rank=2.5"),
        ({"method": "linear", "learning_rate": 0}, "learning_rate=0"),
        ({"method": "linear", "epochs": 0}, "epochs=0"),
        ({"method": "linear", "epochs": 2.5}, "epochs=2.5 must be a whole number of at least 1"),
        ({"method": "linear", "learning_rate": float("nan")}, "learning_rate=nan must be a number above 0"),
        ({"method": "linear", "learning_rate": True}, "learning_rate=True must be a number above 0"),
        ({"method": "lora", "rank": True}, "rank=True must be a whole number"),
        ({"method": "lora", "scale": float("inf")}, "scale=inf must be a number"),
        ({"method": "lora", "targets": "fc1"}, "targets='fc1' must be several names"),
        ({"method": "ssf", "blocks": []}, r"blocks=\[\] must be several whole numbers"),
        ({"method": "ssf", "blocks": (-1,)}, r"blocks=\(-1,\) must be several whole numbers from 0 on"),
        ({"method": "adaptformer", "normalised": 1}, "normalised=1 must be True or False"),
        ({"method": "ssf", "magic": 3}, r"ssf takes no magic; leave magic=3 out \(it takes targets, blocks, learning"),
        ({"method": "ssf", "settings": METHODS["lora"].settings()}, "ssf takes SSFSettings, not LoraSettings"),
    ],
)
def test_impossible_settings_are_refused_with_their_value(settings, message):
    with pytest.raises(ConfigError, match=message):
        AdapterConfig(**settings)


def test_a_config_shows_every_setting_and_none_for_those_of_other_methods():
    config = AdapterConfig("lora", rank=4)
    assert (config.rank, config.scale, config.size, config.prompts, config.blocks) == (4, 1.0, 4, None, None)
    assert AdapterConfig("ssf").size is None
    with pytest.raises(AttributeError, match="no method has a setting 'magic'"):
        config.magic  # noqa: B018


def test_a_config_is_frozen_copied_pickled_and_changed_like_a_value():
    config = AdapterConfig("lora", rank=4, blocks=[2, 1])
    for same in (copy.deepcopy(config), pickle.loads(pickle.dumps(config)), AdapterConfig("lora", config.settings)):
        assert same == config
        assert hash(same) == hash(config)
    changed = dataclasses.replace(config, epochs=3)
    assert (changed.epochs, changed.rank, changed.blocks) == (3, 4, (1, 2))
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.method = "ssf"
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.settings.rank = 3


@pytest.mark.parametrize(
    ("method", "texts", "expected"),
    [
        ("lora", {"rank": "16", "targets": "q, fc1"}, AdapterConfig("lora", rank=16, targets=("q", "fc1"))),
        ("ssf", {"blocks": "2,1", "learning_rate": "3e-3"}, AdapterConfig("ssf", blocks=(1, 2), learning_rate=0.003)),
        ("lora", {"sizes": "blocks.0.attn.qkv:4, blocks.1.attn.qkv:0"}, AdapterConfig("lora", sizes=SIZES_OF_TWO)),
        ("pixel_prompt", {"resized": "yes"}, AdapterConfig("pixel_prompt", resized=True)),
        ("lora", {"rank": "many"}, "rank='many' must be a whole number of at least 1"),
        ("lora", {"rank": "0"}, "rank=0 must be a whole number of at least 1"),
        ("adaptformer", {"normalised": "maybe"}, "normalised='maybe' must be True or False"),
        ("lora", {"prompts": "3"}, "lora takes no prompts"),
        ("magic", {}, "no method 'magic'"),
    ],
)
def test_settings_are_read_from_the_texts_of_a_command_line(method, texts, expected):
    if isinstance(expected, AdapterConfig):
        assert AdapterConfig.from_texts(method, texts) == expected
        return
    with pytest.raises(ConfigError, match=expected):
        AdapterConfig.from_texts(method, texts)


@pytest.mark.parametrize("method", METHODS.values(), ids=lambda method: method.name)
def test_a_text_that_stands_for_no_value_is_a_value_error_whatever_the_setting(method):
    for name, setting in method.settings.declared().items():
        if name != "targets":  # any text names a module
            with pytest.raises(ValueError, match=r".*"):
                setting.read(setting.parse("maybe"))


def test_every_setting_is_documented_and_its_default_and_the_values_worth_trying_are_in_range():
    for method in METHODS.values():
        declared = method.settings.declared()
        assert {field.name for field in dataclasses.fields(method.settings)} == set(declared)
        for name, setting in declared.items():
            assert setting.doc.endswith(".")
            assert setting.range
            for value in (setting.default, *setting.tried):
                assert value is None or setting.read(value) == value, (method.name, name)
    assert "lora" in adapters.all_settings()["rank"][1]


def test_stored_configs_are_read_and_written_as_they_were():
    lines = (Path(__file__).parents[2] / "selection" / "evidence" / "library" / "trials.jsonl").read_text().splitlines()
    stored = [values for values in (json.loads(line)["config"] for line in lines) if values["method"] != "pixel_prompt"]
    assert stored
    for values in stored:
        assert AdapterConfig.from_dict(values).to_dict() == values


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
