"""The Fisher engine against per-sample gradients from autograd, one row for each kind of network."""

import numpy as np
import pytest
import timm
import torch
from torch import nn
from torch.nn import functional as F

from task2vec import ESTIMATORS, embed
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


def brute_force(task, probe, embedding, passes):
    """Mean of the weighted squared gradients, one image and one label at a time, averaged inside each filter."""
    weights = [layer.weight.requires_grad_(True) for layer in probe.layers.values()]
    dtype = weights[0].dtype
    weight, bias = (torch.tensor(v, dtype=dtype) for v in (embedding.classifier.weight, embedding.classifier.bias))
    totals = [torch.zeros(len(w), dtype=torch.float64) for w in weights]
    with probe.feature_tap() as features:
        for n in range(len(task)):
            for labels, counts in zip(passes.labels, passes.weights, strict=True):
                logits = F.linear(features(probe.transform(task[n][0])[None].to(dtype)), weight, bias)
                loss = F.cross_entropy(logits, torch.tensor(labels[n : n + 1]))
                for total, gradient in zip(totals, torch.autograd.grad(loss, weights, allow_unused=True), strict=True):
                    if gradient is not None:
                        total += counts[n] * gradient.double().square().flatten(1).mean(1) / len(task)
    for w in weights:
        w.requires_grad_(False)
    return torch.cat(totals).numpy()


def relative_error(found, expected):
    return np.linalg.norm(found - expected) / np.linalg.norm(expected)


def probe_and_passes(build, task, method, dtype=torch.float32, draws=1):
    torch.manual_seed(0)
    module, classifier = build()
    size = task[0][0].size[0]
    probe = plain_probe(module.to(dtype), classifier, size)
    embedding = embed(task, probe, method, draws=draws, batch_size=4)
    inputs = torch.stack([probe.transform(task[i][0]) for i in range(len(task))]).to(dtype)
    probabilities = embedding.classifier.probabilities(probe.features(inputs).float().numpy())
    passes = ESTIMATORS[method](probabilities, task.labels, draws, np.random.default_rng(0))
    return probe, embedding, passes


@pytest.mark.parametrize("name", NETWORKS)
def test_montecarlo_equals_per_sample_autograd_on_the_same_labels(name):
    task = random_task(6, size=64 if name in ("swin", "mixer") else 32)
    probe, embedding, passes = probe_and_passes(NETWORKS[name], task, "montecarlo")
    expected = brute_force(task, probe, embedding, passes)
    assert relative_error(embedding.fisher, expected) < 1e-4
    offset = 0
    for layer in embedding.layers:  # no layer hides behind a larger one
        part = slice(offset, offset + layer.num_filters)
        offset += layer.num_filters
        if expected[part].max() > 1e-9 * expected.max():
            assert relative_error(embedding.fisher[part], expected[part]) < 1e-3, layer.name
    assert all(parameter.grad is None for parameter in probe.module.parameters())


@pytest.mark.parametrize("name", ["resnet basic", "vit", "called twice"])
@pytest.mark.parametrize(("method", "draws"), [("montecarlo", 3), ("exact", 1), ("empirical", 1)])
def test_every_estimator_equals_brute_force(name, method, draws):
    task = random_task(6)
    probe, embedding, passes = probe_and_passes(NETWORKS[name], task, method, draws=draws)
    assert relative_error(embedding.fisher, brute_force(task, probe, embedding, passes)) < 1e-4


@pytest.mark.parametrize("name", ["resnet basic", "vit"])
def test_in_double_precision_only_the_stored_float32_is_rounded(name):
    task = random_task(6)
    probe, embedding, passes = probe_and_passes(NETWORKS[name], task, "exact", torch.float64)
    assert relative_error(embedding.fisher, brute_force(task, probe, embedding, passes)) < 1e-7


def test_montecarlo_converges_to_exact_and_the_squared_mean_gradient_does_not():
    task = random_task(8)
    probe, exact, _ = probe_and_passes(NETWORKS["called twice"], task, "exact")
    errors = [relative_error(embed(task, probe, draws=draws).fisher, exact.fisher) for draws in (1, 1000)]
    assert errors[1] < 0.1
    assert errors[1] < errors[0]


def test_the_result_does_not_depend_on_the_batch_size():
    task = random_task(9)
    probe, whole, _ = probe_and_passes(NETWORKS["bundled resnet"], task, "montecarlo")
    for batch_size in (1, 4, 64):
        assert relative_error(embed(task, probe, batch_size=batch_size).fisher, whole.fisher) < 1e-3


def test_the_same_seed_gives_the_same_bits_and_another_seed_other_labels():
    task = random_task(60)
    probe, first, _ = probe_and_passes(NETWORKS["bundled resnet"], task, "montecarlo")
    np.testing.assert_array_equal(first.fisher, embed(task, probe, batch_size=4, seed=0).fisher)
    assert (first.fisher != embed(task, probe, batch_size=4, seed=1).fisher).any()


def test_exact_does_not_change_when_classes_are_renumbered():
    from task2vec import Task

    task = random_task(9)
    images = np.stack([np.asarray(task[i][0]) for i in range(len(task))])
    renumbered = Task.from_arrays(images, 2 - task.labels)
    probe, exact, _ = probe_and_passes(NETWORKS["bundled resnet"], task, "exact")
    assert relative_error(embed(renumbered, probe, "exact").fisher, exact.fisher) < 1e-3


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


def test_sampled_labels_follow_the_model():
    probabilities = np.tile([0.7, 0.0, 0.3], (20_000, 1))
    labels = ESTIMATORS["montecarlo"](probabilities, np.zeros(20_000, int), 1, np.random.default_rng(0)).labels[0]
    np.testing.assert_allclose(np.bincount(labels, minlength=3) / 20_000, [0.7, 0, 0.3], atol=0.015)
