"""Several adapters on one backbone, by name."""

import copy

import pytest
import torch

import adapters
from adapters import AdapterConfig, ConfigError
from tests.adapters.families import backbone, images

CONFIGS = {
    "ssf": AdapterConfig("ssf"),
    "lora": AdapterConfig("lora", rank=2),
    "vpt": AdapterConfig("vpt_shallow", prompts=2),
    "norm": AdapterConfig("norm"),
    "everything": AdapterConfig("full"),
    "probe": AdapterConfig("linear"),
}


def model_with_all():
    """Each adapter has a classifier of another size, and weights that are not those it started from."""
    model = backbone("ViT")
    for i, (name, config) in enumerate(CONFIGS.items()):
        adapters.attach(model, config, num_classes=5 + i, name=name, seed=i)
        for parameter in adapters.tuned_parameters(model).values():
            parameter.data += 0.05
    return model


@torch.no_grad()
def test_each_adapter_computes_what_it_would_alone():
    together = model_with_all()
    for i, (name, config) in enumerate(CONFIGS.items()):
        alone = adapters.attach(backbone("ViT"), config, num_classes=5 + i, seed=i)
        for parameter in adapters.tuned_parameters(alone).values():
            parameter.data += 0.05
        adapters.switch(together, name)
        together.eval()
        expected = alone.eval()(images("ViT"))
        torch.testing.assert_close(together(images("ViT")), expected, atol=0, rtol=0)
        assert expected.shape[1] == together.num_classes == 5 + i
        assert adapters.backbone_fingerprint(together) == adapters.backbone_fingerprint(alone)
    adapters.switch(together, None)
    torch.testing.assert_close(together(images("ViT")), backbone("ViT")(images("ViT")), atol=0, rtol=0)


@pytest.mark.parametrize("name", CONFIGS)
def test_training_one_adapter_leaves_the_others_and_the_backbone_untouched(name):
    model = model_with_all()
    before = {}
    for other in CONFIGS:
        adapters.switch(model, other)
        before[other] = {key: tensor.clone() for key, tensor in adapters.tuned_tensors(model).items()}
    adapters.switch(model, name)
    data = [(image, i % 3) for i, image in enumerate(images("ViT", count=6))]
    adapters.fit(model, data, batch_size=3, progress=False)
    for other in CONFIGS:
        adapters.switch(model, other)
        after = adapters.tuned_tensors(model)
        unchanged = [torch.equal(after[key], tensor) for key, tensor in before[other].items()]
        assert all(unchanged) == (other != name)
    adapters.detach(model)
    torch.testing.assert_close(model.state_dict(), backbone("ViT").state_dict(), atol=0, rtol=0)
    assert all(parameter.grad is None for parameter in model.parameters())


def test_only_the_active_adapter_is_trainable():
    model = model_with_all()
    for name in CONFIGS:
        adapters.switch(model, name)
        tuned = {id(parameter) for parameter in adapters.tuned_parameters(model).values()}
        assert tuned == {id(parameter) for parameter in model.parameters() if parameter.requires_grad}


def test_a_copy_of_a_model_has_adapters_of_its_own():
    model = model_with_all()
    adapters.switch(model, "everything")
    other = copy.deepcopy(model)
    expected = model(images("ViT"))
    for name in ("ssf", "everything"):
        adapters.switch(other, name)
        for parameter in adapters.tuned_parameters(other).values():
            parameter.data.zero_()
    torch.testing.assert_close(model(images("ViT")), expected, atol=0, rtol=0)


@torch.no_grad()
def test_one_adapter_can_be_taken_off_saved_loaded_and_merged_among_others(tmp_path):
    model = model_with_all().eval()
    adapters.switch(model, "norm")
    expected = model(images("ViT"))
    adapters.save(model, tmp_path)
    merged = adapters.merge(model)
    assert not hasattr(merged, "adapters")
    torch.testing.assert_close(merged(images("ViT")), expected, atol=1e-5, rtol=1e-5)
    adapters.detach(model, "norm")
    with pytest.raises(ConfigError, match="no adapter 'norm'; the adapters here are: 'ssf', 'lora', 'vpt'"):
        adapters.switch(model, "norm")
    with pytest.raises(ConfigError, match=r"is active; call adapters\.switch"):
        adapters.merge(model)
    adapters.load(model, tmp_path, name="again").eval()
    torch.testing.assert_close(model(images("ViT")), expected, atol=0, rtol=0)


def test_a_checkpoint_that_does_not_fit_leaves_the_active_adapter_in_its_place(tmp_path):
    from safetensors.torch import load_file, save_file

    model = model_with_all()
    adapters.switch(model, "lora")
    adapters.save(model, tmp_path)
    tensors = load_file(tmp_path / "adapter.safetensors")
    tensors.popitem()
    save_file(tensors, tmp_path / "adapter.safetensors")
    expected = model(images("ViT"))
    with pytest.raises(adapters.CheckpointError, match="does not fit the model at"):
        adapters.load(model, tmp_path, name="broken")
    torch.testing.assert_close(model(images("ViT")), expected, atol=0, rtol=0)
    adapters.attach(model, CONFIGS["lora"], 3, name="broken")  # the name is free
