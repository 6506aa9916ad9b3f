"""Weights that are at hand, that are not, and that do not fit."""

import http.server
import threading
import time

import pytest
import timm
import torch
from huggingface_hub import constants
from safetensors.torch import save_file

import adapters
from task2vec import ProbeError, WeightsError, load_probe
from task2vec.weights import mismatches, timm_model, weights_at_hand


@pytest.fixture
def empty_cache(tmp_path, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))


@pytest.mark.parametrize("offline", [True, False])
def test_without_a_network_missing_weights_are_said_within_five_seconds(offline, empty_cache, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", offline)
    monkeypatch.setattr(constants, "ENDPOINT", "http://nowhere.invalid")
    for load in (timm_model, load_probe):
        start = time.monotonic()
        with pytest.raises((WeightsError, ProbeError), match=r"not at hand and .* with --checkpoint"):
            load("resnet18")
        assert time.monotonic() - start < 5
    assert constants.HF_HUB_OFFLINE is offline


def test_a_hub_that_accepts_and_never_answers_is_given_up(empty_cache, monkeypatch):
    import socket

    with socket.create_server(("127.0.0.1", 0)) as silent:
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{silent.getsockname()[1]}")
        start = time.monotonic()
        with pytest.raises(WeightsError, match="does not answer"):
            timm_model("resnet18")
        assert time.monotonic() - start < 5


def test_cached_weights_are_taken_without_asking_the_network(tmp_path, empty_cache, monkeypatch):
    asked = []

    class Counting(http.server.BaseHTTPRequestHandler):
        def do_HEAD(self):
            asked.append(self.path)
            self.send_error(404)

        do_GET = do_HEAD  # noqa: N815

    weights = timm.create_model("test_vit").state_dict()
    snapshot = tmp_path / "cache" / "models--timm--test_vit.r160_in1k" / "snapshots" / ("0" * 40)
    snapshot.mkdir(parents=True)
    refs = snapshot.parents[1] / "refs"
    refs.mkdir()
    (refs / "main").write_text("0" * 40)
    save_file(weights, snapshot / "model.safetensors")
    with http.server.HTTPServer(("127.0.0.1", 0), Counting) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{server.server_port}")
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        assert weights_at_hand("test_vit")
        assert not weights_at_hand("test_vit2")
        loaded = timm_model("test_vit").state_dict()
        server.shutdown()
    assert asked == []
    assert all(torch.equal(loaded[name], tensor) for name, tensor in weights.items())


def test_bundled_weights_are_at_hand():
    assert weights_at_hand(adapters.DEFAULT_BACKBONE)


def test_a_wrong_checkpoint_names_its_first_three_mismatches(tmp_path):
    save_file(timm.create_model("test_vit2").state_dict(), tmp_path / "other.safetensors")
    with pytest.raises(WeightsError) as caught:
        timm_model("test_vit", tmp_path / "other.safetensors")
    reason = str(caught.value).split("(", 1)[1]
    assert 2 <= reason.count(" is ") <= 3
    assert len(str(caught.value)) < 500
    assert "give weights of this very model" in reason


def test_mismatches_are_those_that_torch_finds():
    model = torch.nn.Linear(2, 3)
    with pytest.raises(RuntimeError) as caught:
        model.load_state_dict({"weight": torch.zeros(3, 4), "other": torch.zeros(1)})
    assert mismatches(str(caught.value)) == [
        "weight is (3, 4) there and (3, 2) in the model",
        "bias is missing",
        "other is not of this model",
    ]
