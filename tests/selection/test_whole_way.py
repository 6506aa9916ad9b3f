"""From a folder of photographs at their own size to a model in use, through the command line."""

import csv
import dataclasses
import zipfile

import numpy as np
import onnxruntime
import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import load_file
from timm.data import create_transform

import adapters
from selection.results.description import Description
from task2vec import Task
from tests.selection.test_cli import as_json, run

IMAGES = {"train": 8, "test": 4}  # of each class


@pytest.fixture(scope="module")
def photographs(datasets, tmp_path_factory):
    """A few photographs of each kind of weather, as they came."""
    root = tmp_path_factory.mktemp("photographs") / "weather"
    with zipfile.ZipFile(datasets / "weather4.zip") as archive:
        for split, count in IMAGES.items():
            task = Task.from_folder(datasets / "weather4.zip", split=split)
            names = [name for name in archive.namelist() if f"{split}/" in name and not name.endswith("/")]
            for class_name in task.class_names:
                own = sorted(name for name in names if f"/{class_name}/" in f"/{name}")[:count]
                assert len(own) == count
                for name in own:
                    target = root / split / class_name / name.rpartition("/")[2]
                    target.parent.mkdir(parents=True, exist_ok=True)
                    target.write_bytes(archive.read(name))
    return root


@pytest.mark.slow
def test_every_way_to_use_a_tuned_model_predicts_the_same(photographs, tmp_path):
    files = sorted((photographs / "test").rglob("*.*"))
    with Image.open(files[0]) as image:
        assert min(image.size) > 64  # at their own size
    given = ("--backbone", adapters.DEFAULT_BACKBONE, "--device", "cpu", "--precision", "none")
    embedding = tmp_path / "weather.safetensors"
    assert as_json("embed", photographs, "--split", "train", "-o", embedding)["images"] == 4 * IMAGES["train"]

    recommended = as_json("recommend", embedding, "--mergeable-only")
    assert not recommended["timed_here"]
    said = run("recommend", photographs, "--split", "train", "--mergeable-only", *given)
    assert "seconds here" in said.stdout
    assert "are shrunk to the 32 x 32" in " ".join(said.stderr.split())

    out = tmp_path / "tuned"
    facts = as_json("tune", photographs, "-o", out, "--mergeable-only", *given)
    own = Description.read(out)
    assert own.num_images["test"] == len(files) == 4 * IMAGES["test"]
    assert facts["test_accuracy"] == own.test.accuracy

    validated = as_json("validate", out, photographs, "--device", "cpu", "--precision", "none")
    assert validated["accuracy"] == pytest.approx(facts["test_accuracy"])
    assert [row["recall"] for row in validated["classes"]] == [row["recall"] for row in own.test_by_class]

    run("predict", out, photographs / "test", "-o", tmp_path / "found.csv", "--device", "cpu", "--precision", "none")
    with (tmp_path / "found.csv").open() as file:
        rows = {row["image"]: row for row in csv.DictReader(file)}
    assert rows.keys() == {str(file) for file in files}
    predicted = np.array([[float(rows[str(file)][name]) for name in own.class_names] for file in files])
    right = [rows[str(file)]["class"] == file.parent.name for file in files]
    assert np.mean(right) == pytest.approx(facts["test_accuracy"])

    transform = create_transform(**own.preprocessing, is_training=False)
    images = torch.stack([transform(Image.open(file).convert("RGB")) for file in files])
    run("export", out, "-o", tmp_path / "model.onnx")
    session = onnxruntime.InferenceSession(str(tmp_path / "model.onnx"), providers=["CPUExecutionProvider"])
    logits = torch.from_numpy(session.run(None, {"images": images.numpy()})[0])
    np.testing.assert_allclose(logits.softmax(dim=1).numpy(), predicted, atol=1e-3)

    alone = timm.create_model(own.backbone.split(".")[0], num_classes=len(own.class_names)).eval()
    alone.load_state_dict(load_file(out / "merged.safetensors"))
    with torch.no_grad():
        np.testing.assert_allclose(alone(images).softmax(dim=1).numpy(), predicted, atol=1e-3)
    assert dataclasses.asdict(own)["backbone"].startswith(adapters.DEFAULT_BACKBONE)
