"""The Fisher of the backbone that will be tuned."""

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from safetensors.numpy import load_file, save_file
from torch.nn import functional as F

import adapters
import task2vec
from task2vec import EmbeddingError, ProbeError, Sensitivity, Task, sensitivity
from tests.conftest import plain_probe, random_task

NAME = "task2vec_vit_patch4_32"


@pytest.fixture(scope="module")
def measured():
    torch.manual_seed(0)
    return sensitivity(random_task(), timm.create_model(NAME), "exact")


def test_the_mass_of_a_layer_is_the_sum_of_its_weights_squared_gradients():
    """Against autograd, one image and one label at a time."""
    torch.manual_seed(0)
    pixels, labels = np.random.default_rng(0).integers(0, 256, (6, 32, 32, 3), np.uint8), np.arange(6) % 3
    model, task = timm.create_model(NAME).double(), Task.from_arrays(pixels, labels)
    found = sensitivity(task, model, "empirical")
    embedding = task2vec.embed(task, plain_probe(model, "head"), "empirical")
    head = torch.from_numpy(embedding.classifier.weight).double(), torch.from_numpy(embedding.classifier.bias).double()
    probe = plain_probe(model, "head")
    model.requires_grad_(True)
    expected = dict.fromkeys(found.mass, 0.0)
    for image, label in zip(pixels, labels, strict=True):
        model.zero_grad()
        with probe.feature_tap() as features:
            taken = features(probe.transform(Image.fromarray(image))[None].double())
        F.cross_entropy(F.linear(taken, *head), torch.tensor([label])).backward()
        for name in expected:
            expected[name] += float(model.get_submodule(name).weight.grad.square().sum()) / len(task)
    assert found.mass == pytest.approx(expected, rel=1e-4)


def test_it_is_the_embedding_under_the_backbone_with_layers_by_their_modules_names(measured):
    torch.manual_seed(0)
    model = timm.create_model(NAME)
    embedding = task2vec.embed(random_task(), plain_probe(model, "head"), "exact")
    np.testing.assert_allclose(measured.fisher, embedding.fisher, rtol=1e-5)
    assert {"blocks.0.attn.qkv", "blocks.5.mlp.fc2"} <= set(measured.mass)
    assert all(model.get_submodule(name).weight.shape[0] == len(part) for name, part in measured.filters.items())
    assert sum(measured.shares.values()) == pytest.approx(1)
    weights = {name: model.get_submodule(name).weight.numel() for name in measured.mass}
    assert {n: m * weights[n] for n, m in measured.mean.items()} == pytest.approx(measured.mass, rel=1e-5)


def test_a_file_gives_back_what_was_saved_and_others_are_refused(measured, tmp_path):
    path = tmp_path / "folder" / "flowers.safetensors"
    measured.save(path)
    loaded = Sensitivity.load(path)
    np.testing.assert_array_equal(loaded.fisher, measured.fisher)
    for name in ("layers", "weights", "backbone", "fingerprint", "method", "num_samples", "task", "unmeasured"):
        assert getattr(loaded, name) == getattr(measured, name)
    save_file(load_file(path), tmp_path / "bare.safetensors")
    (tmp_path / "odd.safetensors").write_bytes(b"nonsense")
    for odd in ("bare", "odd"):
        with pytest.raises(EmbeddingError, match="is no sensitivity"):
            Sensitivity.load(tmp_path / f"{odd}.safetensors")
    with pytest.raises(EmbeddingError, match="there is no sensitivity at"):
        Sensitivity.load(tmp_path / "absent.safetensors")


def test_the_backbone_is_left_as_it_was():
    model = adapters.attach(timm.create_model(NAME), adapters.AdapterConfig("lora"), 3).train()
    before = {name: (p.requires_grad, p.detach().clone()) for name, p in model.named_parameters()}
    modes = [module.training for module in model.modules()]
    sensitivity(random_task(), model)
    for name, p in model.named_parameters():
        assert p.requires_grad == before[name][0]
        assert torch.equal(p, before[name][1])
    assert [module.training for module in model.modules()] == modes


def test_a_model_of_another_size_of_image_is_measured_at_that_size():
    torch.manual_seed(0)
    model = timm.create_model("vit_tiny_patch16_224", img_size=48, depth=2)
    found = sensitivity(random_task(6), model)
    assert found.backbone == "vit_tiny_patch16_224"
    assert "blocks.1.mlp.fc1" in found.mass
    with pytest.raises(ProbeError, match=r"is none of timm's models; give task2vec\.Probe"):
        sensitivity(random_task(6), torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(12, 3)))


def test_it_allocates_an_adapter_of_the_backbone(measured):
    model = timm.create_model(NAME)
    config = adapters.allocate(adapters.AdapterConfig("lora"), measured.mass, model, parameters=10_000)
    placed = dict(config.sizes)
    largest = max(placed, key=lambda name: measured.mass[name])
    assert placed[largest] == max(placed.values())
    assert adapters.num_adapter_parameters(adapters.attach(model, config, 3)) <= 10_000
