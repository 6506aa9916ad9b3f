import subprocess
import sys
from collections import OrderedDict

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import nn

from task2vec import DEFAULT_PROBE, Probe, ProbeError, embed, load_probe
from tests.conftest import plain_probe, random_task


def test_the_bundled_probe_is_a_timm_model_with_packaged_weights():
    model = timm.create_model(DEFAULT_PROBE, pretrained=True)
    probe = load_probe()
    assert sum(p.numel() for p in model.parameters()) <= 1_500_000
    assert probe.layers.keys() == {n for n, m in model.named_modules() if isinstance(m, nn.Conv2d)}
    torch.testing.assert_close(probe.module.conv1[0].weight, model.conv1[0].weight)
    assert probe.unmeasured == ()


def test_the_features_are_what_the_classifier_receives():
    probe = load_probe()
    images = torch.randn(3, 3, 32, 32)
    expected = probe.module.forward_head(probe.module.forward_features(images), pre_logits=True)
    torch.testing.assert_close(probe.features(images), expected)


def test_the_fingerprint_is_the_same_in_another_process():
    code = "import task2vec; print(task2vec.load_probe().fingerprint)"
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == load_probe().fingerprint


def network(seed=0, stride=1):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Conv2d(3, 4, 3, stride=stride), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2))


def test_the_fingerprint_changes_with_weights_geometry_and_preprocessing_but_not_with_the_classifier():
    original = plain_probe(network(), "3").fingerprint
    same = network()
    same[3] = nn.Linear(4, 9)
    assert plain_probe(same, "3").fingerprint == original
    assert plain_probe(network(seed=1), "3").fingerprint != original
    assert plain_probe(network(stride=2), "3").fingerprint != original
    assert plain_probe(network(), "3", size=16).fingerprint != original


def test_a_probe_is_frozen_and_in_evaluation_mode():
    probe = plain_probe(
        nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4, 2)).train(), "3"
    )
    assert not probe.module.training
    assert not any(p.requires_grad for p in probe.module.parameters())


def test_networks_that_cannot_be_probes_are_refused_with_the_remedy():
    with pytest.raises(ProbeError, match=r"no module 'head' .* its last linear: 3"):
        plain_probe(network(), "head")
    with pytest.raises(ProbeError, match="no convolution or linear layer before"):
        Probe(nn.Sequential(nn.Flatten(), nn.Linear(4, 2)), "1", lambda image: image)
    spatial = plain_probe(nn.Sequential(nn.Conv2d(3, 4, 3), nn.Conv2d(4, 2, 1)), "1")
    with pytest.raises(ProbeError, match=r"received shape \(1, 4, 30, 30\), not \(N, d\)"):
        spatial.features(torch.zeros(1, 3, 32, 32))


def test_any_timm_model_with_local_weights_is_a_probe(tmp_path):
    model = timm.create_model("resnet10t")
    save_file(model.state_dict(), tmp_path / "weights.safetensors")
    probe = load_probe("resnet10t", checkpoint=tmp_path / "weights.safetensors")
    torch.testing.assert_close(probe.module.layer1[0].conv1.weight, model.layer1[0].conv1.weight)
    assert probe.name == "resnet10t"


def test_models_and_weights_that_cannot_be_had_are_named(tmp_path):
    with pytest.raises(ProbeError, match="no model 'resnet9000'"):
        load_probe("resnet9000")
    with pytest.raises(ProbeError, match=r"cannot load weights from .*nowhere"):
        load_probe("resnet10t", checkpoint=tmp_path / "nowhere.safetensors")


def test_a_convolution_is_a_classifier_like_a_linear_layer():
    torch.manual_seed(0)
    linear = nn.Sequential(
        OrderedDict(conv=nn.Conv2d(3, 8, 3), pool=nn.AdaptiveAvgPool2d(1), flat=nn.Flatten(), head=nn.Linear(8, 3))
    )
    conv = nn.Sequential(OrderedDict(conv=linear.conv, pool=nn.AdaptiveAvgPool2d(1), head=nn.Conv2d(8, 3, 1)))
    found, expected = (embed(random_task(8), plain_probe(net, "head"), "exact") for net in (conv, linear))
    np.testing.assert_allclose(found.fisher, expected.fisher, rtol=1e-5)
