"""GPS and FISH masks: which entries of the weights are chosen, and that training them is masked full fine-tuning."""

import copy

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from torch.nn import functional as F

import adapters
from adapters import AdapterConfig, CheckpointError, ConfigError, allocate
from adapters.placement.scores import TEMPERATURE, supervised_contrastive_loss
from tests.adapters.families import NUM_CLASSES, attach, backbone, images, weight_scores

CASES = [
    ("ViT", AdapterConfig("gps", connections=3)),
    ("ViT", AdapterConfig("gps", sizes={"blocks.0.mlp.fc1": 0, "blocks.1.mlp.fc2": 7})),
    ("ViT", AdapterConfig("fish", share=0.01)),
    ("ResNet, basic", AdapterConfig("gps")),
    ("ResNet, basic", AdapterConfig("fish", share=0.001)),
    ("MobileNetV3", AdapterConfig("gps", connections=12)),  # depthwise neurons have fewer inputs
    ("BEiT", AdapterConfig("gps", connections=2)),  # whose attention reads the weight without calling the layer
]


def masks(scores, config):
    """Brute force, weight by weight: 1 where an entry is tuned."""
    if config.method == "fish":
        every = np.concatenate([s.numpy().ravel() for s in scores.values()])
        least = np.sort(every)[-round(config.share * len(every))]
        return {name: (s >= least) for name, s in scores.items()}
    found = {}
    for name, s in scores.items():
        rows = s.flatten(1).numpy()
        k = dict(config.sizes or ()).get(name, config.connections)
        ranks = (-rows).argsort(axis=1).argsort(axis=1)
        found[name] = torch.from_numpy(ranks < k).view(s.shape)
    return found


def backbone_scores(model):
    heads = adapters.adapter.classifier_names(model)
    return {name: s for name, s in weight_scores(model).items() if name not in heads}


@pytest.mark.parametrize(("family", "config"), CASES)
def test_the_chosen_entries_are_those_of_brute_force_and_no_others_are_parameters(family, config):
    plain = backbone(family)
    expected = masks(backbone_scores(plain), config)
    model = attach(plain, config, NUM_CLASSES)
    parts = {part.site: part for part in adapters.adapter_of(model).parts}
    assert set(parts) == {name for name, mask in expected.items() if mask.any()}
    for name, part in parts.items():
        found = torch.zeros(expected[name].numel(), dtype=torch.bool)
        found[part.adapter.index] = True
        assert torch.equal(found.view(expected[name].shape), expected[name])
        assert len(part.adapter.index.unique()) == len(part.adapter.index) == part.adapter.delta.numel()
    total = sum(int(mask.sum()) for mask in expected.values())
    assert adapters.num_adapter_parameters(model) == total
    if config.method == "fish":
        assert total == round(config.share * sum(mask.numel() for mask in expected.values()))
    optimiser = torch.optim.AdamW(adapters.tuned_parameters(model).values())
    model(images(family)).sum().backward()
    optimiser.step()
    head = sum(p.numel() for n, p in adapters.tuned_parameters(model).items() if n.rpartition("/")[0] not in parts)
    assert sum(state["exp_avg"].numel() for state in optimiser.state.values()) == total + head


@pytest.mark.parametrize(("family", "config"), CASES)
def test_training_is_full_fine_tuning_with_a_mask_on_its_gradients(family, config):
    model = attach(backbone(family, torch.float64), config, NUM_CLASSES, seed=0).eval()
    dense = adapters.attach(backbone(family, torch.float64), AdapterConfig("linear"), NUM_CLASSES, seed=0).eval()
    mask = masks(backbone_scores(dense), config)
    heads = adapters.adapter.classifier_names(dense)
    weights = {name: dense.get_submodule(name).weight for name in mask}
    trained = [p for n, p in dense.named_parameters() if n.startswith(heads) and "adapters" not in n]
    for weight in weights.values():
        weight.requires_grad_(True)
    settings = {"lr": 1e-3, "weight_decay": 0.0, "eps": 1e-4}
    sparse = torch.optim.AdamW(adapters.tuned_parameters(model).values(), **settings)
    full = torch.optim.AdamW([*weights.values(), *trained], **settings)
    x, y = images(family, torch.float64, count=6), torch.arange(6) % NUM_CLASSES
    losses = []
    for _ in range(4):
        for network, optimiser in ((model, sparse), (dense, full)):
            optimiser.zero_grad()
            loss = F.cross_entropy(network(x), y)
            loss.backward()
            losses.append(float(loss.detach()))
            if network is dense:
                for name, weight in weights.items():
                    if weight.grad is not None:
                        weight.grad *= mask[name]
            optimiser.step()
    np.testing.assert_allclose(losses[::2], losses[1::2], rtol=1e-10)
    assert losses[-1] < losses[0]
    merged = adapters.merge(model)
    for name, weight in weights.items():
        torch.testing.assert_close(merged.get_submodule(name).weight, weight, atol=1e-10, rtol=1e-10)
    before = backbone(family, torch.float64)
    assert any(not torch.equal(merged.get_submodule(n).weight, before.get_submodule(n).weight) for n in weights)


def small_network():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 4, 3),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(2),
        nn.Flatten(),
        nn.Linear(16, 5),
        nn.Tanh(),
        nn.Linear(5, 3),
    ).double()


BATCHES = [
    (torch.rand(5, 3, 6, 6).double(), torch.tensor([0, 1, 0, 2, 1])),
    (torch.rand(3, 3, 6, 6).double(), torch.tensor([2, 2, 1])),
]


def test_fisher_scores_are_the_mean_squares_of_single_images_gradients():
    model = small_network().train()
    found = adapters.fisher_scores(model, BATCHES)
    assert model.training
    assert set(found) == {"0", "4"}  # not the classifier
    expected = {name: [] for name in found}
    for x, y in [(x, y) for xs, ys in BATCHES for x, y in zip(xs, ys, strict=True)]:
        network = small_network()
        F.cross_entropy(network(x[None]), y[None]).backward()
        for name, squares in expected.items():
            squares.append(network.get_submodule(name).weight.grad.square())
    for name, squares in expected.items():
        torch.testing.assert_close(found[name], torch.stack(squares).mean(dim=0))


def test_gradient_scores_are_those_of_the_supervised_contrastive_loss_written_out():
    network = small_network()
    total = 0.0
    for x, y in BATCHES:
        z = F.normalize(network[:-1](x), dim=1)
        terms = []
        for i in range(len(x)):
            others = [a for a in range(len(x)) if a != i]
            same = [p for p in others if y[p] == y[i]]
            if same:
                every = torch.stack([(z[i] @ z[a] / TEMPERATURE).exp() for a in others]).sum()
                terms.append(-torch.stack([((z[i] @ z[p] / TEMPERATURE).exp() / every).log() for p in same]).mean())
        total = total + torch.stack(terms).mean()
    total.backward()
    found = adapters.gradient_scores(small_network(), BATCHES)
    for name, scores in found.items():
        torch.testing.assert_close(scores, network.get_submodule(name).weight.grad.abs())


def test_scores_leave_the_model_as_it_was_and_do_not_depend_on_the_classifier():
    model = adapters.attach(backbone("ViT"), AdapterConfig("linear"), 3, seed=0)
    batch = [(images("ViT", count=4), torch.tensor([0, 0, 1, 1]))]
    first = adapters.gradient_scores(model, batch)
    assert {p for p in model.parameters() if p.requires_grad} == set(adapters.tuned_parameters(model).values())
    assert all(p.grad is None for p in model.parameters())
    again = adapters.gradient_scores(adapters.attach(backbone("ViT"), AdapterConfig("linear"), 3, seed=1), batch)
    torch.testing.assert_close(first, again)
    assert set(first) == set(backbone_scores(backbone("ViT")))


def test_images_without_another_of_their_class_have_no_contrastive_loss():
    assert supervised_contrastive_loss(torch.rand(3, 4), torch.tensor([0, 1, 2])) is None
    with pytest.raises(ConfigError, match="no two images of a batch are of one class"):
        adapters.gradient_scores(small_network(), [(BATCHES[0][0][:2], torch.tensor([0, 1]))])
    several = [(BATCHES[0][0], torch.ones(5, 3))]
    for scores in (adapters.gradient_scores, adapters.fisher_scores):
        with pytest.raises(ConfigError, match=r"labels of shape \(5, 3\) are not one class number for each image"):
            scores(small_network(), several)
    with pytest.raises(ConfigError, match="there are no images to score"):
        adapters.fisher_scores(small_network(), [])


@pytest.mark.parametrize("method", ["gps", "fish"])
def test_scores_are_asked_for_and_checked_and_the_backbone_left_alone(method):
    model, config = backbone("ViT"), AdapterConfig(method)
    scores = weight_scores(model)
    odd = scores | {"blocks.0.mlp.fc1": torch.rand(3, 3)}
    endless = scores | {"blocks.0.mlp.fc1": torch.full((768, 192), torch.nan)}
    for given, message in [
        (None, rf"{method} chooses weights by their scores on the task; call adapters\.attach\(model"),
        ({}, r"the scores of patch_embed\.proj are none, its weight has shape"),
        (odd, r"the scores of blocks\.0\.mlp\.fc1 are of shape \(3, 3\), its weight has shape \(768, 192\)"),
        (endless, r"the scores of blocks\.0\.mlp\.fc1 are not all finite"),
    ]:
        with pytest.raises(ConfigError, match=message):
            adapters.attach(model, config, 3, scores=given)
        assert not hasattr(model, "adapters")
    with pytest.raises(ConfigError, match="ssf chooses no weights by scores; leave scores= out"):
        adapters.attach(model, AdapterConfig("ssf"), 3, scores=scores)


def test_a_budget_for_fish_is_its_share_of_the_weights_exactly():
    config = allocate(AdapterConfig("fish"), None, backbone("ViT"), parameters=12_345)
    assert adapters.num_adapter_parameters(attach(backbone("ViT"), config, 3)) == 12_345


def test_a_budget_for_gps_puts_more_connections_where_the_mass_is():
    scores = backbone_scores(backbone("ViT"))
    late = {name: s * (100 if "blocks.2" in name else 1) for name, s in scores.items()}
    config = allocate(AdapterConfig("gps"), late, backbone("ViT"), parameters=20_000)
    sizes = dict(config.sizes)
    assert sizes["blocks.2.mlp.fc1"] > 5 * max(1, sizes["blocks.0.mlp.fc1"])
    model = adapters.attach(backbone("ViT"), config, 3, scores=late)
    assert adapters.num_adapter_parameters(model) <= 20_000


def test_entries_travel_with_the_checkpoint_and_outside_ones_are_refused(tmp_path):
    model = attach(backbone("ViT"), AdapterConfig("fish", share=0.001), 3)
    for parameter in adapters.tuned_parameters(model).values():
        parameter.data += 0.1
    adapters.save(model, tmp_path)
    x = images("ViT")
    loaded = adapters.load(backbone("ViT"), tmp_path)
    torch.testing.assert_close(loaded.eval()(x), model.eval()(x), atol=0, rtol=0)
    tensors = load_file(tmp_path / "adapter.safetensors")
    name = next(n for n in tensors if n.endswith("/index"))
    for spoilt in (tensors | {name: tensors[name] + 10**7}, {n: t for n, t in tensors.items() if n != name}):
        save_file(spoilt, tmp_path / "adapter.safetensors")
        with pytest.raises(CheckpointError, match="does not fit the model"):
            adapters.load(backbone("ViT"), tmp_path)


@pytest.mark.parametrize("method", ["fish", "gps", "ssf"])
def test_a_name_that_is_taken_is_the_same_mistake_whatever_the_method(method, tmp_path):
    model = attach(backbone("ViT"), AdapterConfig(method), 3)
    adapters.save(model, tmp_path)
    with pytest.raises(ConfigError, match="has an adapter 'default' already"):
        adapters.load(model, tmp_path)


def test_another_tasks_weights_are_started_from_at_the_entries_that_it_tuned(tmp_path):
    first = attach(backbone("ViT"), AdapterConfig("gps", epochs=1), 3)
    for parameter in adapters.tuned_parameters(first).values():
        parameter.data += 0.1
    adapters.save(first, tmp_path)
    others = {name: 1 - s for name, s in weight_scores(backbone("ViT")).items()}
    second = adapters.attach(backbone("ViT"), AdapterConfig("gps", epochs=1, learning_rate=1e-12), 3, scores=others)
    data = [(image, i % 3) for i, image in enumerate(images("ViT", count=6))]
    adapters.fit(second, data, init_from=tmp_path, progress=False)
    expected, found = adapters.tuned_tensors(first), adapters.tuned_tensors(second)
    for name in expected:
        if name.endswith(("/index", "/delta")):
            torch.testing.assert_close(found[name], expected[name], atol=1e-6, rtol=0)


def test_a_killed_training_resumes_to_the_same_weights(tmp_path):
    data = [(image, i % 3) for i, image in enumerate(images("ViT", count=6))]

    def tuned(out, stop=None):
        def on_epoch(model, record):
            if record["epoch"] == stop:
                raise KeyboardInterrupt

        model = attach(backbone("ViT"), AdapterConfig("gps", epochs=2), 3, seed=0)
        adapters.fit(model, data, batch_size=3, out=out, on_epoch=on_epoch, progress=False)
        return adapters.tuned_tensors(model)

    with pytest.raises(KeyboardInterrupt):
        tuned(tmp_path / "killed", stop=1)
    torch.testing.assert_close(tuned(tmp_path / "killed"), tuned(tmp_path / "whole"), atol=0, rtol=0)


def test_two_choices_on_one_backbone_do_not_meet():
    model = backbone("ViT")
    attach(model, AdapterConfig("gps"), 3, name="one")
    attach(model, AdapterConfig("fish", share=0.001), 4, name="two")
    for name in ("one", "two"):
        adapters.switch(model, name)
        for parameter in adapters.tuned_parameters(model).values():
            parameter.data += 0.05
    copied = copy.deepcopy(model).eval()
    adapters.detach(copied, "two")
    adapters.switch(copied, "one")
    adapters.switch(model, "one")
    torch.testing.assert_close(copied(images("ViT")), model.eval()(images("ViT")), atol=0, rtol=0)
    adapters.detach(model)
    torch.testing.assert_close(model.state_dict(), backbone("ViT").state_dict(), atol=0, rtol=0)
