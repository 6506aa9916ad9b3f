"""The Fisher engine against per-sample gradients from autograd, one row for each kind of network."""

from collections import OrderedDict
from types import SimpleNamespace

import numpy as np
import pytest
import timm
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from torch import nn
from torch.nn import functional as F

from task2vec import ESTIMATORS, ProbeError, Task, VariationalConfig, embed, sensitivity
from task2vec.fisher import Settings
from task2vec.fisher.likelihood import Bernoulli, Categorical
from task2vec.fisher.montecarlo import drawn_scores
from task2vec.fisher.per_sample import SquaredGradients, patch_gram_sums, pixel_gram_sums
from task2vec.tasks.room import Room
from tests.conftest import plain_probe, random_task
from tests.task2vec.brute_force import all_label_sets, all_labels, brute_force, relative_error
from tests.task2vec.networks import LARGER, NETWORKS


def drawn_labels(task, draws, seed=0):
    """Latin hypercube sampling, written anew: the numbers that the estimator draws, read off the cumulative sum."""
    generator = np.random.default_rng(seed)
    within = generator.random((draws, len(task)))
    parts = generator.permuted(np.tile(np.arange(draws)[:, None], len(task)), axis=0)

    def weighted(n, logits):
        cumulative = np.cumsum(logits.softmax(0).numpy())
        return [(int(np.searchsorted(cumulative, u)), 1 / draws) for u in (parts + within)[:, n] / draws]

    return weighted


def probe_for(build, task, dtype=torch.float32):
    torch.manual_seed(0)
    module, classifier = build()
    return plain_probe(module.to(dtype), classifier, task[0][0].size[0])


def multi_label_task(num_images=6):
    images = np.stack([np.asarray(random_task(num_images)[i][0]) for i in range(num_images)])
    return Task.from_arrays(images, np.random.default_rng(1).integers(2, size=(num_images, 3)))


@pytest.mark.parametrize("name", NETWORKS)
def test_montecarlo_equals_per_sample_autograd_on_the_same_labels(name):
    task = random_task(6, size=LARGER.get(name, 32))
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
    assert relative_error(embed(task, probe, method, draws=400).fisher, exact.fisher) < 0.1


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


@given(logits=arrays(np.float64, (3, 6), elements=st.floats(-800, 800)), seed=st.integers(0, 99))
@pytest.mark.parametrize("likelihood", [Categorical(), Bernoulli()])
def test_combined_factors_are_their_signed_sum(likelihood, logits, seed):
    p = likelihood.probabilities(torch.from_numpy(logits))
    signs = torch.from_numpy(np.random.default_rng(seed).choice([-1.0, 1.0], (3, 6)))
    factors = torch.stack(list(likelihood.factors(p)), dim=1)
    expected = (signs[:, : factors.shape[1], None] * factors).sum(dim=1)
    np.testing.assert_allclose(likelihood.combined(p, signs), expected, rtol=1e-9, atol=1e-14)


def with_absent_classes(task, several):
    """The same images with seven more classes that none of them has, and without."""
    images = np.stack([np.asarray(task[i][0]) for i in range(len(task))])
    if several:
        own = np.random.default_rng(1).integers(2, size=(len(task), 3))
        wide = np.zeros((len(task), 10), int)
        wide[:, [2, 5, 6]] = own
        return Task.from_arrays(images, wide), Task.from_arrays(images, own)
    more = np.concatenate([images, np.zeros((10, *images.shape[1:]), np.uint8)])
    labels = np.concatenate([np.array([2, 5, 6])[task.labels], np.arange(10)])
    return Task.from_arrays(more, labels).select(np.arange(len(task))), task


@pytest.mark.parametrize("several", [False, True])
@pytest.mark.parametrize("method", sorted(ESTIMATORS))
def test_classes_without_images_play_no_part(method, several):
    wide, own = with_absent_classes(random_task(9), several)
    probe = probe_for(NETWORKS["bundled resnet"], own)
    settings = {"draws": 3, "variational": VariationalConfig(max_passes=3), "l2": 0.1}
    found, expected = embed(wide, probe, method, **settings), embed(own, probe, method, **settings)
    np.testing.assert_array_equal(found.fisher, expected.fisher)
    assert (found.classifier.accuracy, found.classifier.cross_validated) == (
        expected.classifier.accuracy,
        expected.classifier.cross_validated,
    )
    assert len(found.classes) == len(found.classifier.bias) == 10
    if method == "exact" and not several:  # whoever checks it with the embedding's own classifier finds the same
        brute = brute_force(wide, probe, found.classifier, all_labels)
        assert relative_error(found.fisher, brute) < 1e-4
        np.testing.assert_array_equal(sensitivity(wide, probe, method, **settings).fisher, found.fisher)


def test_a_sample_needs_an_image_of_each_class_that_has_one():
    wide, own = with_absent_classes(random_task(9), several=False)
    probe = probe_for(NETWORKS["bundled resnet"], own)
    found, expected = (embed(task, probe, max_samples=6) for task in (wide, own))
    np.testing.assert_array_equal(found.fisher, expected.fisher)


@pytest.mark.parametrize("method", sorted(set(ESTIMATORS) - {"variational"}))
def test_the_result_does_not_depend_on_the_batch_size(method):
    task = random_task(9)
    probe = probe_for(NETWORKS["bundled resnet"], task)
    whole = embed(task, probe, method)
    for batch_size in (1, 4, 64):
        assert relative_error(embed(task, probe, method, batch_size=batch_size).fisher, whole.fisher) < 1e-3


@pytest.mark.parametrize("method", sorted(ESTIMATORS))
def test_the_same_seed_gives_the_same_bits(method):
    task = random_task(12)
    probe = probe_for(NETWORKS["bundled resnet"], task)
    first = embed(task, probe, method, seed=3)
    np.testing.assert_array_equal(first.fisher, embed(task, probe, method, seed=3).fisher)
    if method not in ("exact", "empirical"):
        assert (first.fisher != embed(task, probe, method, seed=4).fisher).any()


@pytest.mark.parametrize("name", ["resnet basic", "convnext", "mobilenetv3"])
def test_channels_last_networks_give_the_same(name):
    task = random_task(6)
    expected = embed(task, probe_for(NETWORKS[name], task), "exact").fisher
    probe = probe_for(NETWORKS[name], task)
    probe.module.to(memory_format=torch.channels_last)
    transform = probe.transform
    probe.transform = lambda image: transform(image)[None].to(memory_format=torch.channels_last)[0]
    assert relative_error(embed(task, probe, "exact").fisher, expected) < 1e-4


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


def test_float16_comes_near_to_float32_though_squares_leave_its_range():
    task = random_task(30)
    probe = probe_for(NETWORKS["vit"], task)
    expected = embed(task, probe, "exact").fisher
    assert 0 < relative_error(embed(task, probe, "exact", dtype=torch.float16).fisher, expected) < 0.02
    inputs, gradients = torch.full((1, 300, 4), 30.0).half(), torch.full((1, 300, 4), 2e-2).half()
    recorder = SquaredGradients({}, 1)
    found = recorder._contract(torch.nn.Linear(4, 4), [(inputs, gradients)])
    torch.testing.assert_close(found, torch.full((1, 4), float((300 * 30.0 * gradients[0, 0, 0].float()) ** 2)))


@pytest.mark.parametrize(("name", "entry"), [("resnet basic", "layer3"), ("vit", "blocks.1"), ("swin", "layers.1")])
@pytest.mark.parametrize("room", [Room(2**30, 0), Room(0, 2**30)])
def test_from_a_later_layer_the_rest_is_as_from_the_first(name, entry, room, monkeypatch):
    monkeypatch.setattr("task2vec.inputs.probe_inputs.room_for", lambda share: room)
    task = random_task(6, size=LARGER.get(name, 32))
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
    task = random_task(12)
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


def test_layers_whose_weights_are_read_without_a_call_are_listed_instead_of_measured_as_nothing():
    """BEiT calls F.linear(x, self.qkv.weight): no hook sees it, and its rows would all be zero."""
    task = random_task(6, size=32)
    beit = timm.create_model("beit_base_patch16_224", img_size=32, depth=2, embed_dim=48, num_heads=2)
    for name, parameter in beit.named_parameters():
        if "gamma" in name:  # its blocks start as good as silent
            parameter.data.fill_(1.0)
    found = embed(task, plain_probe(beit, "head"))
    assert [name for name in found.unmeasured if name.endswith("qkv.weight")] == [
        "blocks.0.attn.qkv.weight",
        "blocks.1.attn.qkv.weight",
    ]
    assert not any("qkv" in layer.name for layer in found.layers)
    offset = 0
    for layer in found.layers:
        assert found.fisher[offset : offset + layer.num_filters].max() > 0, layer.name
        offset += layer.num_filters
    distilled, classifier = NETWORKS["deit"]()
    assert "head_dist.weight" in embed(task, plain_probe(distilled, classifier)).unmeasured


@pytest.mark.parametrize("batch_size", [4, 7])
def test_layers_that_are_called_on_what_all_images_share_are_listed_instead_of_measured(batch_size):
    """Swin V2 calls an MLP on a table of 49 relative positions: its rows are no images, however many fit into them."""
    task = random_task(7, size=32)
    swin = timm.create_model("swinv2_tiny_window8_256", img_size=32, window_size=4, depths=(1, 1), num_heads=(3, 6))
    probe = plain_probe(swin, "head.fc")
    found = embed(task, probe, batch_size=batch_size)
    layers = [layer.name for layer in found.layers]
    assert {name for name in found.unmeasured if "cpb_mlp" in name} == {
        f"layers.{stage}.blocks.0.attn.cpb_mlp.{number}.weight" for stage in (0, 1) for number in (0, 2)
    }
    expected = brute_force(task, probe, found.classifier, drawn_labels(task, 1), layers)
    assert relative_error(found.fisher, expected) < 1e-4


@pytest.mark.parametrize("draws", [1, 4])
def test_sampled_labels_follow_the_model(draws):
    p = torch.tensor([0.7, 0.0, 0.3], dtype=torch.float64)
    fisher = SimpleNamespace(likelihood=Categorical(), num_images=20_000, num_classes=3)
    scores = drawn_scores(fisher, Settings(draws, np.random.default_rng(0)))
    taken = torch.stack(list(scores(p.expand(20_000, 3), torch.arange(20_000))))
    labels = (taken * draws**0.5 - p).argmin(dim=2)
    np.testing.assert_allclose(np.bincount(labels.ravel(), minlength=3) / labels.numel(), [0.7, 0, 0.3], atol=0.015)


class TokensFirst(nn.Module):
    """Tokens come before images, as in CLIP's own code: rows of several images lie among each other."""

    def __init__(self):
        super().__init__()
        self.patch, self.fc, self.head = nn.Conv2d(3, 16, 8, 8), nn.Linear(16, 16), nn.Linear(16, 3)

    def forward(self, x):
        return self.head(torch.relu(self.fc(self.patch(x).flatten(2).permute(2, 0, 1))).mean(0))


class TwoViews(nn.Module):
    """Each image is seen twice, the second views after the first ones of all."""

    def __init__(self):
        super().__init__()
        self.conv, self.head = nn.Conv2d(3, 8, 3, 2), nn.Linear(8, 3)

    def forward(self, x):
        views = self.conv(torch.cat([x, x.flip(3) ** 2])).relu().mean((2, 3))
        return self.head(sum(views.chunk(2)))


class TokensFirstWithALargeChannel(TokensFirst):
    """One feature is large in every image, as in trained transformers."""

    def __init__(self):
        super().__init__()
        self.patch.bias.data[0] = 100.0


@pytest.mark.parametrize("network", [TokensFirst, TokensFirstWithALargeChannel, TwoViews])
def test_rows_of_several_images_that_lie_among_each_other_are_told_apart(network):
    torch.manual_seed(0)
    task, net = random_task(6), network().double()
    probe = plain_probe(net, "head", 32)
    one, all_at_once = (embed(task, probe, "exact", batch_size=size, dtype=torch.float64) for size in (1, 6))
    np.testing.assert_allclose(all_at_once.fisher, one.fisher, rtol=1e-6)


def test_kernels_that_are_standardised_on_the_way_are_not_measured_and_those_padded_on_the_way_are():
    torch.manual_seed(0)
    task = random_task(6)
    net = nn.Sequential(
        OrderedDict(
            a=timm.layers.StdConv2d(3, 8, 3, 2, 1),
            b=timm.layers.ScaledStdConv2d(8, 8, 3, 1, 1),
            c=timm.layers.Conv2dSame(8, 8, 3, 2),
            d=timm.layers.Conv2dSame(8, 8, 4, 3, groups=8),
            pool=nn.AdaptiveAvgPool2d(1),
            flat=nn.Flatten(),
            head=nn.Linear(8, 3),
        )
    ).double()
    probe = plain_probe(net, "head", 32)
    found = embed(task, probe, "exact", dtype=torch.float64)
    assert [layer.name for layer in found.layers] == ["c", "d"]
    assert {"a.weight", "b.weight"} <= set(found.unmeasured)
    assert relative_error(found.fisher, brute_force(task, probe, found.classifier, all_labels, ["c", "d"])) < 1e-5


class Two(nn.Module):
    """Two convolutions one after the other; how the second is used is up to the subclass."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.head = nn.Conv2d(3, 6, 3, 2, 1), nn.Conv2d(6, 6, 3, 1, 1), nn.Linear(6, 3)

    def forward(self, x):
        return self.head(self.second(torch.relu(self.a(x))).relu().mean((2, 3)))


class SharesItsWeight(Two):
    def __init__(self):
        super().__init__()
        self.c = nn.Conv2d(6, 6, 3, 1, 1)
        self.c.weight = self.b.weight

    def second(self, x):
        return self.c(self.b(x).relu())


class CallsAFunction(Two):
    def second(self, x):
        return F.conv2d(self.b(x).relu(), self.b.weight, padding=1)


class ReadsItsWeight(Two):
    def second(self, x):
        return self.b(x) * self.b.weight.pow(2).mean()


class ChangesWhatItSaw(Two):
    def __init__(self):
        super().__init__()
        self.b = nn.Linear(6, 6)

    def second(self, x):
        x = x.permute(0, 2, 3, 1).contiguous()
        y = self.b(x)
        x.mul_(3)
        return (y + x).permute(0, 3, 1, 2)


class WithoutGradients(Two):
    def forward(self, x):
        with torch.no_grad():
            x = torch.relu(self.b(self.a(x)[:, :, ::2].repeat(1, 1, 2, 1)))
        return self.head(self.c(x).relu().mean((2, 3)))

    def __init__(self):
        super().__init__()
        self.c = nn.Conv2d(6, 6, 3)


@pytest.mark.parametrize(
    ("network", "measured"),
    [
        (SharesItsWeight, ["a"]),
        (CallsAFunction, ["a"]),
        (ReadsItsWeight, ["a"]),
        (ChangesWhatItSaw, ["a"]),
        (WithoutGradients, ["c"]),
    ],
)
def test_weights_with_a_gradient_that_no_call_shows_are_listed_and_the_others_measured(network, measured):
    torch.manual_seed(0)
    task = random_task(6)
    probe = plain_probe(network().double(), "head")
    kept = [parameter.grad for parameter in probe.module.parameters()]
    found = embed(task, probe, "exact", dtype=torch.float64)
    assert [layer.name for layer in found.layers] == measured
    assert set(found.unmeasured) == {f"{name}.weight" for name in probe.layers if name not in measured}
    if network is not ChangesWhatItSaw:  # autograd itself refuses it
        assert relative_error(found.fisher, brute_force(task, probe, found.classifier, all_labels, measured)) < 1e-6
    assert [parameter.grad for parameter in probe.module.parameters()] == kept
    assert not any(parameter.requires_grad for parameter in probe.module.parameters())


class ByKeyword(Two):
    def forward(self, x):
        return self.head(input=self.b(input=self.a(input=x).relu()).relu().mean((2, 3)))


@pytest.mark.parametrize("entry", [None, "b"])
def test_layers_and_classifiers_that_are_called_by_keyword_are_measured(entry):
    torch.manual_seed(0)
    task, probe = random_task(6), plain_probe(ByKeyword().double(), "head")
    found = embed(task, probe, "exact", dtype=torch.float64, from_layer=entry)
    names = ["a", "b"] if entry is None else ["b"]
    assert [layer.name for layer in found.layers] == names
    assert relative_error(found.fisher, brute_force(task, probe, found.classifier, all_labels, names)) < 1e-6


class OfTheBatch(Two):
    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm2d(6, track_running_stats=False)

    def second(self, x):
        return self.norm(self.b(x))


class Centred(Two):
    def second(self, x):
        x = self.b(x)
        return x - x.mean(0, keepdim=True)


@pytest.mark.parametrize("network", [OfTheBatch, Centred])
def test_networks_that_mix_the_images_of_a_batch_are_refused(network):
    torch.manual_seed(0)
    with pytest.raises(ProbeError, match=r"mixes the images of a batch: an image's features depend on those beside it"):
        embed(random_task(6), plain_probe(network(), "head"))


class Shortcut(Two):
    in_place = True

    def second(self, x):
        if self.in_place:
            x = x.clone()
            x += self.b(x.clone())
            return x
        return x + self.b(x)


@pytest.mark.parametrize("in_place", [True, False])
@pytest.mark.parametrize("batch_size", [1, 4])
def test_an_entry_inside_a_shortcut_is_refused_whatever_the_batch(in_place, batch_size):
    torch.manual_seed(0)
    network = Shortcut()
    network.in_place = in_place
    with pytest.raises(
        ProbeError, match=r"from_layer='b' cannot be entered: something before it is also used after it"
    ):
        embed(random_task(6), plain_probe(network, "head"), from_layer="b", batch_size=batch_size)


def test_what_hooks_make_of_a_layers_output_is_no_gradient_of_its_own():
    torch.manual_seed(0)
    task, probe = random_task(6), plain_probe(CallsTwice().double(), "head")
    probe.layers["b"].register_forward_hook(lambda _, args, output: 3 * output.tanh())
    found = embed(task, probe, "exact", dtype=torch.float64)
    assert [layer.name for layer in found.layers] == ["a", "b"]
    assert relative_error(found.fisher, brute_force(task, probe, found.classifier, all_labels)) < 1e-6


class CallsTwice(Two):
    def second(self, x):
        return self.b(self.b(x))
