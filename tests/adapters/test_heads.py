"""Classifiers that are more than a linear layer, or share their module with a normalisation."""

import copy

import pytest
import timm
import torch

import adapters
from adapters import AdapterConfig

HEADS = {
    "shvit_s1": (128, {}),  # the backbone's last batch norm stands beside the linear layer
    "efficientvit_m0": (224, {}),
    "volo_d1_224": (64, {"img_size": 64}),  # a second linear layer speaks for each token
    "levit_128s": (224, {}),  # two, each with a batch norm of its own
    "repvit_m1": (64, {}),
    "caformer_s18": (64, {}),  # an MLP
    "sequencer2d_s": (32, {"img_size": 32, "layers": (1, 1, 1, 1)}),  # changed in place by timm
    "samvit_base_patch16": (32, {"img_size": 32, "depth": 1, "embed_dim": 48, "num_heads": 2}),  # this one, too
}


@pytest.mark.parametrize("name", HEADS)
def test_a_new_classifier_is_tuned_saved_and_taken_off_and_nothing_else_changes(name, tmp_path):
    torch.manual_seed(0)
    size, settings = HEADS[name]
    base = timm.create_model(name, **settings).eval()
    with torch.no_grad():
        for module in base.modules():
            if isinstance(module, torch.nn.modules.batchnorm._BatchNorm):  # as pretraining would leave it
                module.running_mean.normal_(std=0.1)
                module.weight.uniform_(0.8, 1.2)
    images = torch.randn(3, 3, size, size)
    with torch.no_grad():
        before = base(images)
    state = {key: tensor.clone() for key, tensor in base.state_dict().items()}
    model = adapters.attach(copy.deepcopy(base), AdapterConfig("linear", epochs=1), 3, seed=0)
    with torch.no_grad():
        started = adapters.merge(model).eval()(images)
        torch.testing.assert_close(model.eval()(images), started)
    data = torch.utils.data.TensorDataset(images, torch.arange(3))
    adapters.fit(model, data, batch_size=3, progress=False)
    with torch.no_grad():
        tuned = model.eval()(images)
    assert not torch.equal(tuned, started)
    adapters.save(model, tmp_path)
    assert adapters.read_metadata(tmp_path)["num_classes"] == 3
    torch.testing.assert_close(adapters.load(copy.deepcopy(base), tmp_path).eval()(images), tuned)
    adapters.detach(model)
    torch.testing.assert_close(model.eval()(images), before)
    assert [key for key, tensor in model.state_dict().items() if not torch.equal(tensor, state[key])] == []


@pytest.mark.parametrize("name", ["sequencer2d_s", "samvit_base_patch16"])
@pytest.mark.parametrize("num_classes", [0, 2, 3])
def test_each_adapter_has_a_classifier_of_its_own_where_timm_changes_it_in_place(name, num_classes):
    size, settings = HEADS[name]
    model = timm.create_model(name, num_classes=num_classes, **settings).eval()
    images = torch.randn(2, 3, size, size)
    with torch.no_grad():
        before = model(images)
        first = adapters.attach(model, AdapterConfig("linear"), 3, name="first", seed=0)(images)
        assert adapters.attach(model, AdapterConfig("linear"), 4, name="second", seed=0)(images).shape == (2, 4)
        assert model.num_classes == 4
        adapters.switch(model, "first")
        torch.testing.assert_close(model(images), first)
        adapters.switch(model, None)
        torch.testing.assert_close(model(images), before)
        assert model.num_classes == num_classes


def test_a_backbone_that_takes_no_new_classifier_is_refused(monkeypatch):
    base = timm.create_model("task2vec_vit_patch4_32", num_classes=10)
    monkeypatch.setattr(type(base), "reset_classifier", lambda self, num_classes: None)
    with pytest.raises(adapters.IncompatibleError, match="tells 10 classes apart instead of 3"):
        adapters.attach(base, AdapterConfig("linear"), 3)
    assert not hasattr(base, "adapters")


def test_what_a_network_keeps_of_its_weights_is_made_anew_when_they_change(tmp_path):
    """LeViT's attention looks its position biases up once, until it is trained again."""
    torch.manual_seed(0)
    base = timm.create_model("levit_128s").eval()
    images = torch.randn(2, 3, 224, 224)
    with torch.no_grad():
        plain = base(images)
        model = adapters.attach(copy.deepcopy(base), AdapterConfig("full"), 3, seed=0).eval()
        model(images)
        for name, parameter in adapters.tuned_parameters(model).items():
            if "attention_biases" in name:
                parameter.normal_()
        model.train().eval()
        tuned = model(images)
        adapters.save(model, tmp_path)
        torch.testing.assert_close(adapters.merge(model).eval()(images), tuned)
        other = adapters.attach(base, AdapterConfig("linear"), 3, name="other", seed=0)
        torch.testing.assert_close(adapters.load(other, tmp_path).eval()(images), tuned)
        adapters.detach(other)
        torch.testing.assert_close(other(images), plain)
