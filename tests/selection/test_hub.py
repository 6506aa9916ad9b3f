"""Results, adapters, embeddings, stores and backbones on the hub, through the real client and a server on loopback."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
import timm
import torch
from huggingface_hub import constants
from safetensors.torch import save

import adapters
from adapters import AdapterConfig
from selection import SelectionError, TaskStore, from_pretrained, load_library, load_result, push_to_hub, tune
from task2vec import Compute
from tests.conftest import random_task
from tests.selection.hub_server import serving

COMPUTE = Compute("cpu", "none", workers=0)


@pytest.fixture
def hub(tmp_path, monkeypatch):
    with serving() as (files, address):
        monkeypatch.setattr(constants, "ENDPOINT", address)
        template = address + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        monkeypatch.setenv("HF_TOKEN", "hf_test")
        files.address = address
        yield files


@pytest.fixture(scope="module")
def tuned(tmp_path_factory):
    out = tmp_path_factory.mktemp("hub") / "result"
    config = AdapterConfig("ssf", epochs=1)
    tune(random_task(20), adapters.DEFAULT_BACKBONE, config, compute=COMPUTE, out=out, progress=False)
    return out


def test_a_result_comes_back_and_predicts_the_same(hub, tuned):
    result = load_result(tuned, compute=COMPUTE)
    (tuned / "try-1").mkdir()
    (tuned / "try-1" / "result.json").write_text("{}")
    address = push_to_hub(result, "me/noise")
    assert address.startswith(f"{hub.address}/me/noise/commit/")
    assert hub.private["me/noise"] is True
    assert {"result.json", "README.md", "merged.safetensors", "adapter.safetensors"} <= hub.files["me/noise"].keys()
    assert not any("/" in name for name in hub.files["me/noise"])
    assert "training.pt" not in hub.files["me/noise"]
    again = from_pretrained("me/noise", compute=COMPUTE)
    images = random_task(6).images.pixels
    np.testing.assert_array_equal(again.predict(images).probabilities, result.predict(images).probabilities)


def test_an_adapter_an_embedding_and_a_store_come_back_whole(hub, tuned, tmp_path):
    model = adapters.load(timm.create_model(adapters.DEFAULT_BACKBONE, pretrained=True), tuned)
    adapters.save(model, tmp_path / "adapter")
    push_to_hub(tmp_path / "adapter", "me/adapter", private=False)
    assert hub.private["me/adapter"] is False
    folder = from_pretrained("me/adapter")
    loaded = adapters.load(timm.create_model(adapters.DEFAULT_BACKBONE, pretrained=True), folder)
    tensors, others = adapters.tuned_tensors(model), adapters.tuned_tensors(loaded)
    assert all(torch.equal(others[name], tensor) for name, tensor in tensors.items())

    embedding = load_library().embeddings(name="gtsrb")[0]
    push_to_hub(embedding, "me/embedding")
    back = from_pretrained("me/embedding")
    np.testing.assert_array_equal(back.fisher, embedding.fisher)
    assert back.classes == embedding.classes

    store = TaskStore(tmp_path / "tasks.db")
    store.add(embedding, name="signs", trials=load_library().task("gtsrb").trials, adapter=tmp_path / "adapter")
    push_to_hub(store, "me/store")
    copied = from_pretrained("me/store")
    assert copied.task("signs").trials == store.task("signs").trials
    assert adapters.read_metadata(copied.task("signs").adapter)["config"]["method"] == "ssf"
    assert "me/store" in repr(copied)


@pytest.mark.parametrize("files", [{"notes.md": b"hello"}, None])
def test_what_is_not_there_is_one_sentence(hub, files):
    if files is not None:
        hub.files["me/other"] = files
    with pytest.raises(SelectionError, match=r"me/other (holds no result|\(.*check the name)") as caught:
        from_pretrained("me/other")
    assert "\n" not in str(caught.value)


def test_nothing_is_sent_that_is_not_ours_or_where_there_is_no_hub(hub, tmp_path, monkeypatch):
    with pytest.raises(SelectionError, match="neither a result nor an adapter"):
        push_to_hub(tmp_path, "me/nothing")
    assert hub.asked == []
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(SelectionError, match="HF_HUB_OFFLINE is set"):
        from_pretrained("me/nothing")


def test_a_backbone_of_the_hub_is_tuned_and_found_again(hub, tmp_path):
    torch.manual_seed(0)
    network = timm.create_model("test_vit", num_classes=7)
    config = {"architecture": "test_vit", "num_classes": 7, "pretrained_cfg": dict(network.pretrained_cfg)}
    hub.files["me/vit"] = {"config.json": json.dumps(config).encode(), "model.safetensors": save(network.state_dict())}
    code = """
import sys
from selection import load_result, tune
from adapters import AdapterConfig
from task2vec import Compute
from tests.conftest import random_task
compute, out = Compute("cpu", "none", workers=0), sys.argv[1]
config = AdapterConfig("adaptformer", epochs=1)
done = tune(random_task(20), "hf-hub:me/vit", config, compute=compute, out=out, progress=False)
result = load_result(out, compute=compute)
assert len(result.predict(random_task(6).images.pixels)) == 6
print(result.description.backbone_source, result.description.backbone_fingerprint)
"""
    environment = os.environ | {"HF_ENDPOINT": hub.address, "HF_HOME": str(tmp_path / "home")}
    environment |= {"HF_HUB_OFFLINE": "0", "HF_HUB_CACHE": str(tmp_path / "home" / "hub")}
    done = subprocess.run(
        [sys.executable, "-c", code, tmp_path / "out"], capture_output=True, text=True, env=environment
    )
    assert done.returncode == 0, done.stderr
    source, fingerprint = done.stdout.split()
    assert source == "hf-hub:me/vit"
    assert fingerprint == adapters.backbone_fingerprint(network)
