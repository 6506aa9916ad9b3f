import copy
import json

import pytest
import timm
import torch
from safetensors.torch import load_file, save_file

import adapters
from adapters import AdapterConfig, CheckpointError

BACKBONE = "task2vec_vit_patch4_32"


def fresh(seed=0):
    torch.manual_seed(seed)
    return timm.create_model(BACKBONE)


@pytest.fixture
def saved(tmp_path):
    adapters.save(adapters.attach(fresh(), AdapterConfig("ssf"), 3), tmp_path / "saved", class_names=("a", "b", "c"))
    return tmp_path / "saved"


def test_only_what_was_tuned_is_written(saved):
    tensors = load_file(saved / "adapter.safetensors")
    expected = adapters.tuned_tensors(adapters.attach(fresh(), AdapterConfig("ssf"), 3))
    assert {name: t.shape for name, t in tensors.items()} == {name: t.shape for name, t in expected.items()}
    assert {name.rpartition("/")[2] for name in tensors} == {"scale", "shift", "weight", "bias"}
    metadata = adapters.read_metadata(saved)
    assert metadata["class_names"] == ["a", "b", "c"]
    assert metadata["backbone"] == f"{BACKBONE}.tin_base"


def test_a_checkpoint_of_another_backbone_is_refused(saved):
    with pytest.raises(CheckpointError, match=r"was tuned on task2vec_vit_patch4_32\.tin_base with weights"):
        adapters.load(fresh(seed=1), saved)
    with pytest.raises(CheckpointError, match="not on this resnet18"):
        adapters.load(timm.create_model("resnet18"), saved)


def test_missing_and_misshapen_tensors_are_named(saved):
    tensors = load_file(saved / "adapter.safetensors")
    name = "blocks.0.attn.qkv/scale"
    for changed in ({name: tensors[name][:5].clone()}, {name: None}):
        kept = {k: v for k, v in (tensors | changed).items() if v is not None}
        save_file(kept, saved / "adapter.safetensors")
        with pytest.raises(CheckpointError, match=r"does not fit the model at blocks\.0\.attn\.qkv/scale"):
            adapters.load(fresh(), saved)


def test_damaged_and_absent_files_are_named(saved, tmp_path):
    with pytest.raises(CheckpointError, match="no adapter is saved in"):
        adapters.load(fresh(), tmp_path / "nowhere")
    (saved / "adapter.safetensors").write_bytes(b"nonsense")
    with pytest.raises(CheckpointError, match=r"cannot read .*adapter\.safetensors"):
        adapters.load(fresh(), saved)
    (saved / "adapter.json").write_text("{")
    with pytest.raises(CheckpointError, match=r"adapter\.json is damaged"):
        adapters.load(fresh(), saved)


def test_a_newer_format_is_refused(saved):
    metadata = json.loads((saved / "adapter.json").read_text())
    (saved / "adapter.json").write_text(json.dumps(metadata | {"format_version": 99}))
    with pytest.raises(CheckpointError, match="format version 99"):
        adapters.load(fresh(), saved)


def test_ssf_on_vit_base_takes_at_most_a_megabyte_beside_the_classifier(tmp_path):
    model = adapters.attach(timm.create_model("vit_base_patch16_224"), AdapterConfig("ssf"), 100)
    adapters.save(model, tmp_path)
    size = sum(path.stat().st_size for path in tmp_path.iterdir())
    assert size - 4 * (768 * 100 + 100) <= 1_000_000


def test_one_number_a_channel_is_read_whatever_axes_stand_after_it(tmp_path):
    torch.manual_seed(0)
    base = timm.create_model("resnet10t")
    model = adapters.attach(copy.deepcopy(base), AdapterConfig("conv_adapter"), 3, seed=0)
    adapters.save(model, tmp_path)
    tensors = load_file(tmp_path / "adapter.safetensors")
    older = {n: t.reshape(-1, 1, 1).clone() if n.endswith("/scale") else t for n, t in tensors.items()}
    save_file(older, tmp_path / "adapter.safetensors")
    inputs = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(adapters.load(base, tmp_path).eval()(inputs), model.eval()(inputs))
