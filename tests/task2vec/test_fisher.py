"""The Fisher engine against per-sample gradients from autograd, one row for each kind of network."""

from itertools import product

import numpy as np
import pytest
import timm
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from torch import nn
from torch.nn import functional as F

from task2vec import ESTIMATORS, ProbeError, Task, VariationalConfig, embed
from task2vec.fisher.likelihood import Bernoulli, Categorical
from task2vec.fisher.per_sample import patch_gram_sums, pixel_gram_sums
from tests.conftest import plain_probe, random_task


class CalledTwice(nn.Module):
    """One convolution and one linear layer that are each used twice, and one use that the output ignores."""

    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3, stride=4)
        self.conv = nn.Conv2d(8, 8, 3, padding=1)
        self.linear = nn.Linear(8, 8)
        self.fc = nn.Linear(8, 2)

    def forward(self, x):
        x = self.conv(F.relu(self.conv(F.relu(self.first(x))))).mean((2, 3))
        self.linear(x)
        return self.fc(self.linear(torch.tanh(self.linear(x))))


def convolutions(*layers):
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 2))


NETWORKS = {
    "resnet basic": lambda: (timm.create_model("resnet10t", num_classes=3), "fc"),
    "resnet bottleneck": lambda: (timm.create_model("resnet26t", num_classes=3), "fc"),
    "vit": lambda: (timm.create_model("vit_tiny_patch16_224", img_size=32, depth=2), "head"),
    "deit": lambda: (timm.create_model("deit_tiny_distilled_patch16_224", img_size=32, depth=2), "head"),
    "swin": lambda: (
        timm.create_model("swin_tiny_patch4_window7_224", img_size=64, window_size=4, depths=(2, 2), num_heads=(3, 6)),
        "head.fc",
    ),
    "convnext": lambda: (timm.create_model("convnext_atto", depths=(1, 1, 1, 1)), "head.fc"),
    "mobilenetv3": lambda: (timm.create_model("mobilenetv3_small_050"), "classifier"),
    "efficientnet": lambda: (timm.create_model("efficientnet_lite0"), "classifier"),
    "mixer": lambda: (timm.create_model("mixer_s32_224", img_size=64), "head"),
    "bundled resnet": lambda: (timm.create_model("task2vec_resnet_32"), "fc"),
    "bundled vit": lambda: (timm.create_model("task2vec_vit_patch4_32"), "head"),
    "called twice": lambda: (CalledTwice(), "fc"),
    "grouped": lambda: (convolutions(nn.Conv2d(3, 8, 3), nn.ReLU(inplace=True), nn.Conv2d(8, 8, 3, groups=4)), "5"),
    "depthwise": lambda: (convolutions(nn.Conv2d(3, 8, 5, stride=2), nn.ReLU(), nn.Conv2d(8, 8, 3, groups=8)), "5"),
    "dilated": lambda: (convolutions(nn.Conv2d(3, 8, 3, dilation=2, padding=3)), "3"),
    "padded to same": lambda: (convolutions(nn.Conv2d(3, 8, 4, padding="same")), "3"),
    "padded by reflection": lambda: (convolutions(nn.Conv2d(3, 8, 3, padding=(1, 2), padding_mode="reflect")), "3"),
    "uneven stride": lambda: (convolutions(nn.Conv2d(3, 8, (1, 1), stride=(2, 3))), "3"),
    "few positions": lambda: (convolutions(nn.Conv2d(3, 16, 16, stride=8), nn.Conv2d(16, 8, 2)), "4"),
}


def logits_of(task, probe, classifier, index):
    dtype = next(iter(probe.layers.values())).weight.dtype
    weight, bias = (torch.tensor(v, dtype=dtype) for v in (classifier.weight, classifier.bias))
    with probe.feature_tap() as features:
        return F.linear(features(probe.transform(task[index][0])[None].to(dtype)), weight, bias)


def loss_of(logits, label):
    if np.ndim(label):
        return F.binary_cross_entropy_with_logits(logits[0], torch.tensor(label, dtype=logits.dtype), reduction="sum")
    return F.cross_entropy(logits, torch.tensor([label]))


def brute_force(task, probe, classifier, weighted_labels):
    """Mean of the weighted squared gradients, one image and one label at a time, averaged inside each filter.

    `weighted_labels(n, logits)` gives the labels of image n, each with what its squared gradient counts for.
    """
    weights = [layer.weight.requires_grad_(True) for layer in probe.layers.values()]
    totals = [torch.zeros(len(w), dtype=torch.float64) for w in weights]
    for n in range(len(task)):
        logits = logits_of(task, probe, classifier, n)
        for label, count in weighted_labels(n, logits[0].detach().double()):
            gradients = torch.autograd.grad(loss_of(logits, label), weights, allow_unused=True, retain_graph=True)
            for total, gradient in zip(totals, gradients, strict=True):
                if gradient is not None:
                    total += count * gradient.double().square().flatten(1).mean(1) / len(task)
    for w in weights:
        w.requires_grad_(False)
    return torch.cat(totals).numpy()


def all_labels(n, logits):
    return [(c, float(p)) for c, p in enumerate(logits.softmax(0))]


def all_label_sets(n, logits):
    p = logits.sigmoid().numpy()
    return [(np.array(y), float(np.prod(np.where(y, p, 1 - p)))) for y in product((0, 1), repeat=len(p))]


def drawn_labels(task, draws, seed=0):
    """Systematic sampling, written anew: the uniform numbers that the estimator draws, read off the cumulative sum."""
    start = np.random.default_rng(seed).random(len(task))

    def weighted(n, logits):
        cumulative = np.cumsum(logits.softmax(0).numpy())
        return [(int(np.searchsorted(cumulative, (start[n] + k / draws) % 1)), 1 / draws) for k in range(draws)]

    return weighted


def relative_error(found, expected):
    return np.linalg.norm(found - expected) / np.linalg.norm(expected)


def probe_for(build, task, dtype=torch.float32):
    torch.manual_seed(0)
    module, classifier = build()
    return plain_probe(module.to(dtype), classifier, task[0][0].size[0])


def multi_label_task(num_images=6):
    images = np.stack([np.asarray(random_task(num_images)[i][0]) for i in range(num_images)])
    return Task.from_arrays(images, np.random.default_rng(1).integers(2, size=(num_images, 3)))


@pytest.mark.parametrize("name", NETWORKS)
def test_montecarlo_equals_per_sample_autograd_on_the_same_labels(name):
    task = random_task(6, size=64 if name in ("swin", "mixer") else 32)
    probe = probe_for(NETWORKS[name], task)
    embedding = embed(task, probe, "montecarlo", batch_size=4)
    expected = brute_force(task, probe, embedding.classifier, drawn_labels(task, 1))
    assert relative_error(embedding.fisher, expected) < 1e-4
    offset = 0
    for layer in embedding.layers:  # no layer hides behind a larger one
        part = slice(offset, offset + layer.num_filters)
        offset += layer.num_filters
        if expected[part].max() > 1e-9 * expected.max():
            assert relative_error(embedding.fisher[part], expected[part]) < 1e-3, layer.name
    assert all(parameter.grad is None for parameter in probe.module.parameters())


@pytest.mark.parametrize("name", ["resnet basic", "vit", "called twice"])
@pytest.mark.parametrize("method", ["montecarlo", "exact", "empirical"])
def test_every_estimator_equals_brute_force(name, method):
    task = random_task(6)
    probe = probe_for(NETWORKS[name], task)
    embedding = embed(task, probe, method, draws=3)
    labels = {
        "montecarlo": drawn_labels(task, 3),
        "exact": all_labels,
        "empirical": lambda n, logits: [(int(task.labels[n]), 1.0)],
    }
    assert relative_error(embedding.fisher, brute_force(task, probe, embedding.classifier, labels[method])) < 1e-4


GEOMETRIES = {
    "plain": {},
    "padded": {"padding": (1, 2)},
    "strided": {"stride": 2, "padding": 1},
    "uneven stride": {"stride": (3, 1)},
    "stride beyond the kernel": {"stride": 4},
    "dilated": {"dilation": (2, 3), "padding": 3},
    "strided and dilated": {"stride": (2, 3), "dilation": (3, 2)},
    "reflected": {"padding": 1, "padding_mode": "reflect"},
    "same": {"padding": "same", "dilation": 2},
}


@pytest.mark.parametrize("kernel", [(3, 3), (2, 5)])
@pytest.mark.parametrize("geometry", GEOMETRIES)
@pytest.mark.parametrize("way", [pixel_gram_sums, patch_gram_sums])
def test_both_gram_ways_of_a_convolution_equal_autograd(way, geometry, kernel):
    torch.manual_seed(0)
    layer = nn.Conv2d(3, 4, kernel, **GEOMETRIES[geometry]).double()
    inputs = torch.randn(2, 3, 11, 13, dtype=torch.float64)
    outputs = layer(inputs)
    gradients = torch.randn_like(outputs)
    for n in range(2):
        expected = torch.autograd.grad(outputs[n], layer.weight, gradients[n], retain_graph=True)[0]
        found = way(layer, inputs[n : n + 1], gradients[n : n + 1])[0]
        torch.testing.assert_close(found, expected.square().sum((1, 2, 3)))


def test_multi_label_exact_is_the_mean_over_all_sets_of_labels():
    task = multi_label_task()
    probe = probe_for(NETWORKS["resnet basic"], task)
    embedding = embed(task, probe, "exact")
    assert relative_error(embedding.fisher, brute_force(task, probe, embedding.classifier, all_label_sets)) < 1e-4
    own = embed(task, probe, "empirical")
    expected = brute_force(task, probe, own.classifier, lambda n, logits: [(task.labels[n], 1.0)])
    assert relative_error(own.fisher, expected) < 1e-4


@pytest.mark.parametrize("name", ["resnet basic", "vit"])
def test_in_double_precision_only_the_stored_float32_is_rounded(name):
    task = random_task(6)
    probe = probe_for(NETWORKS[name], task, torch.float64)
    embedding = embed(task, probe, "exact")
    assert relative_error(embedding.fisher, brute_force(task, probe, embedding.classifier, all_labels)) < 1e-7
    asked = embed(task, probe_for(NETWORKS[name], task), "exact", dtype=torch.float64)
    assert relative_error(asked.fisher, embedding.fisher) < 1e-7


@pytest.mark.parametrize("make_task", [random_task, multi_label_task])
@pytest.mark.parametrize("method", ["montecarlo", "hutchinson"])
def test_the_unbiased_estimators_converge_to_exact(method, make_task):
    task = make_task(8)
    probe = probe_for(NETWORKS["called twice"], task)
    exact = embed(task, probe, "exact")
    errors = [relative_error(embed(task, probe, method, draws=draws).fisher, exact.fisher) for draws in (1, 300)]
    assert errors[1] < 0.1
    assert errors[1] < errors[0]


def test_two_classes_need_no_draw_for_hutchinson_to_be_exact():
    task = random_task(8, num_classes=2)
    probe = probe_for(NETWORKS["called twice"], task)
    assert relative_error(embed(task, probe, "hutchinson").fisher, embed(task, probe, "exact").fisher) < 1e-5


@given(logits=arrays(np.float64, (3, 4), elements=st.floats(-30, 30)))
@pytest.mark.parametrize("likelihood", [Categorical(), Bernoulli()])
def test_the_factors_multiply_to_the_covariance_of_the_score(likelihood, logits):
    p = likelihood.probabilities(torch.from_numpy(logits))
    found = sum(v[:, :, None] * v[:, None, :] for v in likelihood.factors(p))
    independent = isinstance(likelihood, Bernoulli)
    expected = torch.diag_embed(p * (1 - p) if independent else p) - (0 if independent else p[:, :, None] * p[:, None])
    np.testing.assert_allclose(found, expected, atol=1e-12)


@pytest.mark.parametrize("method", sorted(set(ESTIMATORS) - {"variational"}))
def test_the_result_does_not_depend_on_the_batch_size(method):
    task = random_task(9)
    probe = probe_for(NETWORKS["bundled resnet"], task)
    whole = embed(task, probe, method)
    for batch_size in (1, 4, 64):
        assert relative_error(embed(task, probe, method, batch_size=batch_size).fisher, whole.fisher) < 1e-3


@pytest.mark.parametrize("method", sorted(ESTIMATORS))
def test_the_same_seed_gives_the_same_bits(method):
    task = random_task(30)
    probe = probe_for(NETWORKS["bundled resnet"], task)
    first = embed(task, probe, method, seed=3)
    np.testing.assert_array_equal(first.fisher, embed(task, probe, method, seed=3).fisher)
    if method not in ("exact", "empirical"):
        assert (first.fisher != embed(task, probe, method, seed=4).fisher).any()


def test_exact_does_not_change_when_classes_are_renumbered():
    task = random_task(9)
    images = np.stack([np.asarray(task[i][0]) for i in range(len(task))])
    renumbered = Task.from_arrays(images, 2 - task.labels)
    probe = probe_for(NETWORKS["bundled resnet"], task)
    exact = embed(task, probe, "exact")
    assert relative_error(embed(renumbered, probe, "exact").fisher, exact.fisher) < 1e-3


def test_bfloat16_comes_near_to_float32():
    task = random_task(30)
    for name in ("vit", "resnet basic"):
        probe = probe_for(NETWORKS[name], task)
        expected = embed(task, probe, "exact").fisher
        assert 0 < relative_error(embed(task, probe, "exact", dtype=torch.bfloat16).fisher, expected) < 0.1


@pytest.mark.parametrize(("name", "entry"), [("resnet basic", "layer3"), ("vit", "blocks.1"), ("swin", "layers.1")])
@pytest.mark.parametrize("keep_bytes", [2**30, 0])
def test_from_a_later_layer_the_rest_is_as_from_the_first(name, entry, keep_bytes, monkeypatch):
    monkeypatch.setattr("task2vec.inputs.KEEP_BYTES", keep_bytes)
    task = random_task(6, size=64 if name == "swin" else 32)
    probe = probe_for(NETWORKS[name], task)
    whole, part = embed(task, probe), embed(task, probe, from_layer=entry)
    assert all(layer.name.startswith(("layer3", "layer4", "blocks.1", "layers.1")) for layer in part.layers)
    assert part.layers == whole.layers[-len(part.layers) :]
    assert relative_error(part.fisher, whole.fisher[-len(part.fisher) :]) < 1e-3


@pytest.mark.parametrize(
    ("name", "entry", "message"),
    [
        ("vit", "blocks.1.mlp", "used after it"),
        ("vit", "blocks.7", "no module 'blocks.7'"),
        ("called twice", "conv", "called 2 times"),
        ("vit", "fc_norm", "nothing from 'fc_norm' on"),
    ],
)
def test_an_entry_that_cannot_be_is_refused(name, entry, message):
    task = random_task(6)
    with pytest.raises(ProbeError, match=message):
        embed(task, probe_for(NETWORKS[name], task), from_layer=entry)


def test_variational_forgets_its_start_and_reports_what_it_reached():
    task = random_task(60)
    probe = probe_for(NETWORKS["bundled resnet"], task)
    weights = [layer.weight.clone() for layer in probe.layers.values()]
    configs = [VariationalConfig(start=start, tolerance=0.15) for start in (1e-3, 10.0)]
    found = [
        embed(task, probe, "variational", draws=2, seed=seed, variational=config) for seed, config in enumerate(configs)
    ]
    for embedding in found:
        assert embedding.convergence.converged
        assert embedding.convergence.error <= 0.15
        assert (embedding.fisher >= embedding.trivial).all()
    assert np.sqrt(np.mean(np.log(found[0].fisher / found[1].fisher) ** 2)) < 2 * 0.15
    few = embed(task, probe, "variational", variational=VariationalConfig(max_passes=5, tolerance=1e-6)).convergence
    assert (few.passes, few.converged) == (5, False)
    for layer, weight in zip(probe.layers.values(), weights, strict=True):
        np.testing.assert_array_equal(layer.weight, weight)


def test_variational_with_next_to_no_noise_is_the_fisher_above_the_prior():
    task = random_task(30)
    probe = probe_for(NETWORKS["bundled resnet"], task)
    config = VariationalConfig(prior_scale=1e-4, noise=1e-6)
    found = embed(task, probe, "variational", draws=8, variational=config)
    expected = embed(task, probe, "exact").fisher
    assert relative_error(found.fisher - found.trivial, expected) < 0.1


def test_weights_that_cannot_be_measured_are_listed():
    module, classifier = NETWORKS["swin"]()
    unmeasured = plain_probe(module, classifier, 64).unmeasured
    assert "layers.0.blocks.0.attn.relative_position_bias_table" in unmeasured
    assert not any("qkv" in name for name in unmeasured)
    attention = nn.Sequential(
        nn.Conv2d(3, 8, 8, stride=8), nn.Flatten(2), nn.TransformerEncoderLayer(16, 2, 8), nn.Linear(16, 2)
    )
    probe = plain_probe(attention, "3")
    assert {"2.self_attn.in_proj_weight", "2.self_attn.out_proj.weight"} <= set(probe.unmeasured)
    assert set(probe.layers) == {"0", "2.linear1", "2.linear2"}


@pytest.mark.parametrize("draws", [1, 4])
def test_sampled_labels_follow_the_model(draws):
    p = torch.tensor([0.7, 0.0, 0.3], dtype=torch.float64).expand(20_000, 3)
    start = torch.from_numpy(np.random.default_rng(0).random(20_000))
    labels = torch.cat([Categorical().sample(p, (start + k / draws) % 1) for k in range(draws)])
    np.testing.assert_allclose(np.bincount(labels, minlength=3) / len(labels), [0.7, 0, 0.3], atol=0.015)
