"""A tuned model in use: written, read back, predicting, validated, exported."""

import contextlib
import csv
import io
import json
import os
import re
import shutil
import subprocess
import sys

import numpy as np
import pytest
import timm
import torch
import yaml
from PIL import Image
from safetensors.torch import load_file, save_file

import adapters
from adapters import AdapterConfig
from adapters.data import transform_of
from selection import SelectionError, TaskStore, auto_tune, load_backbone, load_result, tune
from selection.results.card import card
from selection.results.description import Description, Measured
from selection.results.label_validation import LabelValidation
from selection.results.lock import alone_in, refuse_among_images
from selection.results.predictions import Predictions
from selection.results.result import probabilities_of
from selection.results.validation import Validation, calibration_error
from selection.tuning.one import write
from task2vec import Compute, Task, TaskError, embed, load_probe, read_splits
from tests.selection.test_cli import as_json, run

NAME = adapters.DEFAULT_BACKBONE
COMPUTE = Compute("cpu", "none", workers=0)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Three splits of two classes of noise, one brighter than the other."""
    root = tmp_path_factory.mktemp("data") / "spots"
    generator = np.random.default_rng(0)
    for split, count in (("train", 12), ("val", 4), ("test", 5)):
        for label, name in enumerate(("dark", "light")):
            (root / split / name).mkdir(parents=True)
            for i in range(count):
                pixels = generator.integers(0, 160, (40, 36, 3)) + 80 * label
                Image.fromarray(pixels.astype(np.uint8)).save(root / split / name / f"{i}.png")
    return root


@pytest.fixture(scope="module", params=["ssf", "adaptformer", pytest.param("head2toe", marks=pytest.mark.slow)])
def tuned(folder, request, tmp_path_factory):
    """A result that merges and one that does not."""
    out = tmp_path_factory.mktemp("tuned") / request.param
    config = AdapterConfig(request.param, epochs=2)
    return tune(folder, NAME, config, compute=COMPUTE, out=out, progress=False)


@pytest.mark.parametrize("method", ["gps", "fish"])
def test_methods_that_choose_weights_get_their_scores_from_the_task(method, folder, tmp_path):
    config = AdapterConfig(method, epochs=1)
    tuned = tune(folder, NAME, config, compute=COMPUTE, out=tmp_path, progress=False)
    result = load_result(tmp_path, compute=COMPUTE)
    images = read_splits(folder).test
    np.testing.assert_allclose(
        result.predict(images).probabilities,
        load_result(tmp_path, backbone=timm.create_model(NAME, pretrained=True), compute=COMPUTE)
        .predict(images)
        .probabilities,
        atol=1e-5,
    )
    assert tuned.merged is not None


def test_a_result_in_the_place_of_another_leaves_nothing_of_it_that_would_be_used(folder, tmp_path):
    images = read_splits(folder).test
    for method in ("ssf", "adaptformer"):
        own = tune(folder, NAME, AdapterConfig(method, epochs=1), compute=COMPUTE, progress=False)
        write(own, read_splits(folder), tmp_path)
        probabilities, _ = probabilities_of(own.model, transform_of(own.model), images, num_classes=2, compute=COMPUTE)
        found = load_result(tmp_path, compute=COMPUTE).predict(images)
        np.testing.assert_allclose(found.probabilities, probabilities, atol=1e-5)


def test_a_run_of_another_kind_does_not_overwrite_a_result(folder, tmp_path):
    config = AdapterConfig("linear", epochs=1)
    settings = {"compute": COMPUTE, "out": tmp_path, "progress": False}
    tune(folder, NAME, config, **settings)
    before = (tmp_path / "result.json").read_bytes()
    with pytest.raises(SelectionError, match="holds an earlier result, which would be lost"):
        auto_tune(folder, NAME, tries=2, **settings)
    assert (tmp_path / "result.json").read_bytes() == before
    tune(folder, NAME, config, **settings)  # the same training is gone on with
    (tmp_path / "training.pt").unlink()
    with pytest.raises(SelectionError, match="holds an earlier result, which would be lost"):
        tune(folder, NAME, config, **settings)


@pytest.mark.parametrize("several", [False, True])
def test_a_run_into_a_folder_of_ones_own_writes_over_nothing(folder, tmp_path, several):
    (tmp_path / "README.md").write_text("mine")
    (tmp_path / "notes.txt").write_text("no result has such a name")
    with pytest.raises(SelectionError, match=r"holds README\.md, which would be lost; give another folder"):
        auto_tune(folder, NAME, tries=2 if several else 1, compute=COMPUTE, out=tmp_path, progress=False)
    assert (tmp_path / "README.md").read_text() == "mine"
    (tmp_path / "README.md").unlink()
    with alone_in(tmp_path, several=several):
        pass


@pytest.mark.parametrize("inside", [".", "tuned", "train/tuned"])
def test_a_result_among_the_images_is_refused_before_it_becomes_a_class(folder, inside):
    before = sorted(folder.rglob("*"))
    for started in (
        lambda out: tune(folder, NAME, AdapterConfig("linear"), out=out),
        lambda out: auto_tune(folder, NAME, out=out),
    ):
        with pytest.raises(SelectionError, match="where the figures written there would be read as images"):
            started(folder / inside)
    failed = run("tune", folder, "--method", "linear", "-o", folder / inside, ok=False)
    assert "would be read as images" in failed.stderr.replace("\n", " ")
    assert sorted(folder.rglob("*")) == before
    refuse_among_images(folder / ".tuned", folder)  # what is hidden is not read


def test_a_result_says_what_it_is(tuned, folder):
    own = Description.read(tuned.out)
    assert own.class_names == ("dark", "light")
    assert own.num_images == {"training": 24, "validation": 8, "test": 10}
    assert own.test == Measured(tuned.test.accuracy, 10, own.test.others)
    assert own.config == adapters.adapter_of(tuned.model).config.to_dict()
    assert (tuned.out / "curves.png").stat().st_size > 1000
    header = (tuned.out / "README.md").read_text().split("---")[1]
    facts = yaml.safe_load(header)
    assert facts["pipeline_tag"] == "image-classification"
    assert facts["model-index"][0]["results"][0]["metrics"][0]["value"] == round(tuned.test.accuracy, 4)


def test_the_card_does_not_call_a_choice_among_tries_a_fair_measurement(tuned, folder, tmp_path):
    alone = (tuned.out / "README.md").read_text()
    assert "| validation images, which watched over the training and chose nothing |" in alone
    write(tuned, read_splits(folder), tmp_path, num_tries=3)
    (row,) = [line for line in (tmp_path / "README.md").read_text().splitlines() if line.startswith("| validation")]
    assert row.startswith("| validation images, by which it was chosen among 3 tries: expect somewhat less | ")
    assert row.split(" | ")[2] == "-"
    assert Description.read(tmp_path).num_tries == 3


def test_validation_on_images_none_of_which_can_be_read_is_refused(tuned, tmp_path):
    for name in ("dark", "light"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "broken.png").write_bytes(b"no image")
    with pytest.raises(SelectionError, match=r"none of 2 images of .* can be read"):
        load_result(tuned.out, compute=COMPUTE).validate(tmp_path)


def test_predictions_are_those_of_the_tuned_model_whatever_they_are_asked_of(tuned, folder):
    result = load_result(tuned.out, compute=COMPUTE)
    splits = read_splits(folder)
    test = splits.test
    with torch.no_grad():
        expected = tuned.model(torch.stack([result.transform(test[i][0]) for i in range(len(test))])).softmax(dim=1)
    paths = sorted((folder / "test").rglob("*.png"))
    pictures = [Image.open(path) for path in paths]
    for asked in (test, folder / "test", paths, pictures):
        found = result.predict(asked)
        np.testing.assert_allclose(found.probabilities, expected.numpy(), atol=2e-5)
    assert found.classes == tuple(("dark", "light")[c] for c in expected.argmax(dim=1))
    assert result.predict(paths[0]).names == (str(paths[0]),)


def test_arrays_and_tensors_are_taken_too(tuned):
    result = load_result(tuned.out, compute=COMPUTE)
    pixels = np.random.default_rng(1).integers(0, 255, (3, 32, 32, 3), dtype=np.uint8)
    by_array = result.predict(pixels).probabilities
    by_tensor = result.predict(torch.from_numpy(pixels).permute(0, 3, 1, 2)).probabilities
    np.testing.assert_array_equal(by_array, by_tensor)
    np.testing.assert_array_equal(by_array, result.predict([Image.fromarray(p) for p in pixels]).probabilities)


def test_unreadable_images_are_named_and_the_others_predicted(tuned, folder, tmp_path):
    (tmp_path / "broken.png").write_bytes(b"no image")
    good = sorted((folder / "test").rglob("*.png"))[0]
    found = load_result(tuned.out, compute=COMPUTE).predict([tmp_path / "broken.png", good])
    assert found.names == (str(good),)
    assert "broken.png" in found.unreadable[0]
    with pytest.raises(SelectionError, match="none of 1 images can be read"):
        load_result(tuned.out, compute=COMPUTE).predict(tmp_path / "broken.png")
    with pytest.raises(SelectionError, match="nothing cannot be predicted"):
        load_result(tuned.out, compute=COMPUTE).predict([])


def test_validation_matches_classes_by_name(tuned, folder):
    result = load_result(tuned.out, compute=COMPUTE)
    found = result.validate(folder)
    assert found.measured.accuracy == pytest.approx(tuned.test.accuracy)
    assert found.confusion.sum() == 10
    light = Task.from_folder(folder / "test", classes_of=read_splits(folder).train).select(np.arange(5, 10))
    only = result.validate(Task("light", np.zeros(5, np.int64), ("light",), light.images))
    np.testing.assert_array_equal(only.confusion[0], [0, 0])
    assert only.confusion[1].sum() == 5
    assert np.isnan(only.recall[0])
    with pytest.raises(TaskError, match="class 'blue'"):
        result.validate(Task("blue", np.zeros(5, np.int64), ("blue",), light.images))


def test_what_has_only_a_test_split_or_a_single_class_is_validated_too(tuned, folder, tmp_path):
    result = load_result(tuned.out, compute=COMPUTE)
    shutil.copytree(folder / "test", tmp_path / "more" / "test")
    assert result.validate(tmp_path / "more").confusion.sum() == 10
    shutil.copytree(folder / "test" / "light", tmp_path / "one" / "light")
    assert result.validate(tmp_path / "one").confusion.sum(axis=1).tolist() == [0, 5]


@pytest.mark.parametrize("shape", [(32, 32, 3), (32, 32, 4), (3, 32, 32)])
def test_an_array_that_may_be_one_image_or_several_is_asked_about(tuned, shape):
    with pytest.raises(SelectionError, match=r"may be one image or several grey ones; give images\[None\]"):
        load_result(tuned.out, compute=COMPUTE).predict(np.zeros(shape, np.uint8))


def small(name, **settings):
    """A model that takes 32 x 32 pixels and says so, always with the same weights."""
    torch.manual_seed(0)
    own = {"input_size": (3, 32, 32), "test_input_size": None}
    return timm.create_model(name, pretrained_cfg_overlay=own, **settings)


@pytest.mark.parametrize("method", ["lora", "conv_adapter"])  # merges, and does not
@pytest.mark.parametrize("settings", [{"act_layer": "silu"}, {"output_stride": 8}])
def test_a_backbone_made_with_further_arguments_is_asked_for(settings, method, folder, tmp_path):
    config = AdapterConfig(method, epochs=1)
    tuned = tune(folder, small("resnet10t", **settings), config, compute=COMPUTE, out=tmp_path, progress=False)
    with pytest.raises(SelectionError, match="was made with further arguments; give the model that was tuned"):
        load_result(tmp_path, backbone=small("resnet10t"), compute=COMPUTE)
    if tuned.merged is not None:
        with pytest.raises(SelectionError, match="was made with further arguments; give the model that was tuned"):
            load_result(tmp_path, compute=COMPUTE)
    assert "with timm alone" not in (tmp_path / "README.md").read_text()
    result = load_result(tmp_path, backbone=small("resnet10t", **settings), compute=COMPUTE)
    assert result.predict(read_splits(folder).test).probabilities.shape == (10, 2)


def test_damaged_weights_are_noticed(tuned, tmp_path):
    shutil.copytree(tuned.out, tmp_path / "damaged")
    file = tmp_path / "damaged" / ("adapter.safetensors" if tuned.merged is None else "merged.safetensors")
    content = bytearray(file.read_bytes())
    content[-4096:] = bytes(4096)
    file.write_bytes(content)
    with pytest.raises(SelectionError, match="does not give what it gave after tuning: its files are damaged"):
        load_result(tmp_path / "damaged", compute=COMPUTE)


def test_an_adapter_on_layers_that_take_no_merging_is_a_result_as_well(folder, tmp_path):
    tuned = tune(
        folder, small("nf_resnet26"), AdapterConfig("lora", epochs=1), compute=COMPUTE, out=tmp_path, progress=False
    )
    assert tuned.merged is None
    images = read_splits(folder).test
    found = load_result(tmp_path, backbone=small("nf_resnet26"), compute=COMPUTE).predict(images)
    expected, _ = probabilities_of(tuned.model, transform_of(tuned.model), images, num_classes=2, compute=COMPUTE)
    np.testing.assert_allclose(found.probabilities, expected, atol=1e-5)


def test_merging_gives_the_weights_of_the_result_whatever_the_size_of_its_images(folder, tmp_path):
    weights = tmp_path / "vit.safetensors"
    name = "vit_tiny_patch16_224"
    torch.manual_seed(0)
    save_file(timm.create_model(name).state_dict(), weights)
    model = load_backbone(name, weights, image_size=32)
    tuned = tune(folder, model, AdapterConfig("lora", epochs=1), compute=COMPUTE, out=tmp_path / "out", progress=False)
    run("merge", tmp_path / "out", "-o", tmp_path / "m.safetensors", "--checkpoint", weights)
    merged = load_file(tmp_path / "m.safetensors")
    assert merged["pos_embed"].shape == (1, 5, 192)
    for key, value in tuned.merged.state_dict().items():
        torch.testing.assert_close(merged[key], value, atol=1e-6, rtol=1e-5)
    card = (tmp_path / "out" / "README.md").read_text()
    assert 'num_classes=len(about["class_names"]), img_size=32)' in card


def test_predictions_of_files_whose_names_are_no_text_are_written(tuned, folder, tmp_path):
    images = tmp_path / "images"
    images.mkdir()
    odd = os.fsencode(images) + b"/\xff\xfe.png"
    shutil.copy(next((folder / "test" / "dark").glob("*.png")), odd)
    for out in (tmp_path / "p.csv", tmp_path / "p.json"):
        run("predict", tuned.out, images, "-o", out)
    assert odd in (tmp_path / "p.csv").read_bytes()
    assert os.fsencode(json.loads((tmp_path / "p.json").read_text())[0]["image"]) == odd


def predictions(class_names, multi_label=False):
    rows = np.array([[0.9] * len(class_names)], np.float32)
    return Predictions(("x.png",), tuple(class_names), rows, multi_label)


@pytest.mark.parametrize(
    ("class_names", "columns"),
    [
        (("cat", "dog"), ["image", "class", "cat", "dog"]),
        (("class", "image"), ["image", "class", "probability of class", "probability of image"]),
        (
            ("image", "probability of image"),
            ["image", "class", "probability of probability of image", "probability of image"],
        ),
    ],
)
def test_every_column_of_a_table_of_predictions_has_a_name_of_its_own(class_names, columns):
    found = predictions(class_names)
    (row,) = csv.DictReader(io.StringIO(found.to_csv()))
    assert list(row) == columns
    assert (row["image"], row["class"]) == ("x.png", class_names[0])


@pytest.mark.parametrize(
    ("class_names", "said"),
    [
        (("oak", "ash"), "oak|ash"),
        (("oak|red", "ash"), "oak|red;ash"),
        (("a|b;c", "d,e/f"), "a|b;c\u2502d,e/f"),
    ],
)
def test_names_of_several_classes_are_told_apart_whatever_they_hold(class_names, said):
    found = predictions(class_names, multi_label=True)
    assert found.classes == (said,)
    assert said.split(found.separator) == list(class_names)


def test_the_accuracy_of_several_labels_is_that_of_labels():
    assert str(Measured(0.625, 16, num_labels=3)) == "62.5% of all labels of 16 images"
    assert Measured(0.625, 16, num_labels=3).interval is None


@pytest.fixture(scope="module")
def labelled(folder, tmp_path_factory):
    """A table of several labels an image, and what was tuned on it."""
    root = tmp_path_factory.mktemp("labelled")
    table, out = root / "several.csv", root / "tuned"
    rows = [
        f"{path},{path.parent.name}{';even' if int(path.stem) % 2 == 0 else ''},{path.parts[-3]}\n"
        for path in sorted(folder.rglob("*.png"))
    ]
    table.write_text("file,label,split\n" + "".join(rows))
    splits = read_splits(table, separator=";")
    tune(splits, NAME, AdapterConfig("bitfit", epochs=2), compute=COMPUTE, out=out, progress=False)
    return table, out


def test_tuning_on_several_labels_an_image_tells_their_mean_average_precision(labelled, tmp_path):
    arguments = ("tune", labelled[0], "--separator", ";", "--method", "bitfit", "--epochs", "1", "-o", tmp_path)
    said = as_json(*arguments)
    assert said["test_mean_average_precision"] == Description.read(tmp_path).test.others["mean_average_precision"]


def test_several_labels_an_image_are_validated_as_adapters_evaluates_them(labelled, folder):
    table, out = labelled
    own, result = Description.read(out), load_result(out, compute=COMPUTE)
    found = result.validate(table, separator=";")
    metrics = adapters.evaluate(result.model, read_splits(table, separator=";").test, workers=0)
    for name, value in vars(metrics).items():
        assert found.to_dict()[name] == pytest.approx(value, abs=1e-6)
    assert found.measured.num_labels == 3
    assert found.measured.accuracy == pytest.approx(own.test.accuracy, abs=1e-6)
    assert float(np.mean(found.recall)) == pytest.approx(metrics.mean_class_accuracy)
    assert found.images.tolist() == [5, 6, 5]  # dark, even, light
    said = run("validate", out, table, "--separator", ";").stdout
    assert "of all labels of 10 images. Mean average precision: " in said
    assert as_json("validate", out, table, "--separator", ";")["classes"][1]["class"] == "even"
    for asked, message in (
        ((folder,), "tells several labels an image, but those of spots/test have one"),
        ((folder, "--separator", ";"), "separator is of a table"),
        ((table, "--separator", ";", "--plot", "x.png"), "has no confusions to draw"),
    ):
        assert message in run("validate", out, *asked, ok=False).stderr


def test_without_any_label_the_mean_average_precision_is_a_dash():
    probabilities = np.array([[0.9, 0.1], [0.2, 0.3]], np.float32)
    found = LabelValidation.of(probabilities, np.zeros((2, 2), np.int64), ("a", "b"))
    assert str(found) == "Accuracy: 75.0% of all labels of 2 images. Mean average precision: -."
    assert found.to_dict()["mean_average_precision"] is None
    found = LabelValidation.of(probabilities, np.array([[1, 0], [0, 0]]), ("a", "b"))
    assert str(found) == "Accuracy: 100.0% of all labels of 2 images. Mean average precision: 100.0%."


def test_a_model_of_one_label_an_image_is_not_measured_on_several(tuned, labelled):
    said = run("validate", tuned.out, labelled[0], "--separator", ";", ok=False).stderr
    assert "tells one label an image, but those of several.csv/test have several" in said


def test_the_card_says_what_accuracy_of_several_labels_counts(labelled):
    own, said = Description.read(labelled[1]), (labelled[1] / "README.md").read_text()
    assert "| accuracy on | | mean average precision | images |" in said
    mean = own.test.others["mean_average_precision"]
    assert f"| {own.test.accuracy:.1%} | {mean:.1%} | 10 |" in said
    assert "over all images and all 3 classes" in said
    metrics = yaml.safe_load(said.split("---")[1])["model-index"][0]["results"][0]["metrics"]
    assert {row["type"]: row["value"] for row in metrics}["mean_average_precision"] == round(mean, 4)


def test_calibration_is_nought_where_probabilities_come_true_and_one_where_all_is_sure_and_wrong():
    sure = np.array([[1.0, 0.0]] * 4, np.float32)
    assert calibration_error(sure, np.zeros(4, np.int64)) == 0
    assert calibration_error(sure, np.ones(4, np.int64)) == 1
    half = np.array([[0.55, 0.45]] * 20, np.float32)
    assert calibration_error(half, np.array([0] * 11 + [1] * 9)) == pytest.approx(0, abs=1e-6)


def test_confusion_counts_every_image_once():
    probabilities = np.eye(3, dtype=np.float32)[[0, 1, 1, 2]]
    found = Validation.of(probabilities, np.array([0, 1, 2, 2]), ("a", "b", "c"))
    np.testing.assert_array_equal(found.confusion, [[1, 0, 0], [0, 1, 0], [0, 1, 1]])
    np.testing.assert_allclose(found.recall, [1, 1, 0.5])
    np.testing.assert_allclose(found.precision, [1, 0.5, 1])


def test_an_interval_is_wilsons():
    low, high = Measured(0.9, 100).interval  # by the formula: 0.8256, 0.9448
    assert (low, high) == (pytest.approx(0.8256, abs=1e-4), pytest.approx(0.9448, abs=1e-4))


@pytest.mark.parametrize("ending", [".onnx", ".pt2", ".safetensors"])
def test_an_export_gives_the_models_outputs(tuned, ending, tmp_path):
    result = load_result(tuned.out, compute=COMPUTE)
    path = tmp_path / f"model{ending}"
    if ending == ".safetensors" and tuned.merged is None:
        with pytest.raises(SelectionError, match="does not merge"):
            result.export(path)
        assert not path.exists()
        return
    images = torch.randn(5, 3, 32, 32)
    with torch.no_grad():
        expected = result.model(images).numpy()
    result.model.double()
    assert result.export(path) < 1e-4
    assert {p.dtype for p in result.model.parameters()} == {torch.float64}  # the result is as it was
    result.model.float()
    np.testing.assert_allclose(_outputs(path, images), expected, atol=1e-4 * np.abs(expected).max())


def _outputs(path, images):
    if path.suffix == ".onnx":
        import onnxruntime

        session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
        return session.run(None, {"images": images.numpy()})[0]
    if path.suffix == ".pt2":
        return torch.export.load(path).module()(images).detach().numpy()
    plain = timm.create_model(NAME, num_classes=2)
    plain.load_state_dict(load_file(path))
    with torch.no_grad():
        return plain.eval()(images).numpy()


def test_an_export_that_differs_leaves_the_earlier_one(tuned, tmp_path, monkeypatch):
    (tmp_path / "model.pt2").write_text("earlier")
    monkeypatch.setattr("selection.results.export.TOLERANCE", -1.0)
    with pytest.raises(SelectionError, match="nothing was written"):
        load_result(tuned.out, compute=COMPUTE).export(tmp_path / "model.pt2")
    assert [path.name for path in tmp_path.iterdir()] == ["model.pt2"]
    assert (tmp_path / "model.pt2").read_text() == "earlier"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["export", "RESULT", "-o", "RESULT/adapter.safetensors"], "belongs to the result in"),
        (["export", "RESULT", "-o", "RESULT/result.json", "--format", "onnx"], "belongs to the result in"),
        (["export", "RESULT", "-o", "keep.png", "--format", "onnx"], "keep.png is there and is no ONNX file"),
        (["export", "RESULT", "-o", "w.safetensors", "--checkpoint", "./w.safetensors"], "w.safetensors is read, and"),
        (["merge", "RESULT", "-o", "RESULT/adapter.safetensors"], "belongs to the result in"),
        (["merge", "RESULT", "-o", "e.safetensors"], "e.safetensors is there and is no file of weights"),
        (["merge", "RESULT", "-o", "w.safetensors", "--checkpoint", "link.safetensors"], "w.safetensors is read, and"),
        (["predict", "RESULT", "FOLDER", "-o", "RESULT/result.json"], "belongs to the result in"),
        (["predict", "RESULT", "FOLDER", "-o", "notes.json"], "notes.json is there and is no table of predictions"),
        (["predict", "RESULT", "FOLDER", "-o", "notes.csv"], "notes.csv is there and is no table of predictions"),
        (["validate", "RESULT", "FOLDER", "--plot", "RESULT/curves.png"], "belongs to the result in"),
        (["validate", "RESULT", "FOLDER", "--plot", "FOLDER/test/dark/0.png"], "would be read as images"),
        (["embed", "FOLDER", "-o", "keep.png"], "keep.png does not end in .safetensors"),
        (["embed", "FOLDER", "-o", "w.safetensors"], "w.safetensors is there and is no embedding"),
        (["embed", "FOLDER", "-o", "RESULT/adapter.safetensors"], "belongs to the result in"),
        (["atlas", "-o", "keep.png"], "keep.png is there and is no page"),
        (["recommend", "e.safetensors", "--report", "e.safetensors"], "e.safetensors is there and is no page"),
        (["distance", "e.safetensors", "e.safetensors", "--plot", "RESULT/curves.png"], "belongs to the result in"),
    ],
)
def test_no_command_writes_over_what_it_reads_or_something_else(arguments, message, tuned, folder, tmp_path):
    Image.new("RGB", (8, 8)).save(tmp_path / "keep.png")
    for name, text in (("notes.json", '{"mine": 1}'), ("notes.csv", "name,age\n")):
        (tmp_path / name).write_text(text)
    save_file({"weight": torch.zeros(2)}, tmp_path / "w.safetensors")
    (tmp_path / "link.safetensors").symlink_to(tmp_path / "w.safetensors")
    embed(Task.from_folder(folder), load_probe()).save(tmp_path / "e.safetensors")
    places = [path for root in (tmp_path, tuned.out, folder) for path in root.rglob("*") if path.is_file()]
    before = {path: path.read_bytes() for path in places}
    given = [text.replace("RESULT", str(tuned.out)).replace("FOLDER", str(folder)) for text in arguments]
    failed = run(*given, cwd=tmp_path, ok=False)
    assert failed.returncode == 2
    assert message in failed.stderr
    assert {path: path.read_bytes() for path in places} == before


def test_commands_write_again_over_what_they_wrote(tuned, folder, tmp_path):
    (tmp_path / "p.json").touch()  # as mktemp leaves it
    commands = [
        ["embed", folder, "-o", "e.safetensors"],
        ["predict", tuned.out, folder / "test", "-o", "p.csv"],
        ["predict", tuned.out, folder / "test", "-o", "p.json"],
        ["validate", tuned.out, folder, "--plot", "v.png"],
        ["export", tuned.out, "-o", "model.pt2"],
        ["atlas", "e.db", "-o", "atlas.html"],
        ["store", "export", "e.db", "all.zip"],
        *([] if tuned.merged is None else [["merge", tuned.out, "-o", "w.safetensors"]]),
    ]
    with contextlib.closing(TaskStore(tmp_path / "e.db")) as store:
        for name in ("one", "other"):
            store.add(embed(Task.from_folder(folder), load_probe()), name=name)
    for command in commands * 2:
        run(*command, cwd=tmp_path)


def test_an_unknown_format_and_a_folder_without_a_result_are_named(tuned, tmp_path):
    with pytest.raises(SelectionError, match="of no known format"):
        load_result(tuned.out, compute=COMPUTE).export(tmp_path / "model.xyz")
    with pytest.raises(SelectionError, match="there is no result in"):
        load_result(tmp_path)
    (tmp_path / "result.json").write_text("{}")
    with pytest.raises(SelectionError, match="is no result's description"):
        load_result(tmp_path)


def test_the_command_line_goes_the_whole_way_in_three_commands(folder, tmp_path):
    out = tmp_path / "tuned"
    said = run("tune", folder, "-o", out, "--method", "bitfit", "--epochs", "2")
    assert "train: 24 images in 2 classes" in said.stdout
    predicted = as_json("predict", out, folder / "test")
    assert len(predicted) == 10
    assert predicted[0]["class"] in ("dark", "light")
    run("predict", out, folder / "test", "-o", tmp_path / "p.csv")
    lines = (tmp_path / "p.csv").read_text().splitlines()
    assert lines[0] == "image,class,dark,light"
    assert len(lines) == 11
    found = as_json("validate", out, folder, "--plot", tmp_path / "confusion.png")
    assert found["accuracy"] == json.loads((out / "result.json").read_text())["test"]["accuracy"]
    assert (tmp_path / "confusion.png").exists()
    assert as_json("export", out, "-o", tmp_path / "model.onnx")["largest_difference"] < 1e-3
    assert "is neither a .csv nor a .json" in run("predict", out, folder, "-o", "p.xlsx", ok=False).stderr


@pytest.mark.parametrize("backbone", ["test_vit", NAME])
def test_merged_weights_load_and_predict_the_same_by_what_the_card_says(folder, tmp_path, backbone):
    """In a process that imports nothing of ours, unless the card says so."""
    model = timm.create_model(backbone)
    tune(folder, model, AdapterConfig("lora", epochs=1), compute=COMPUTE, out=tmp_path, progress=False)
    image = sorted((folder / "test").rglob("*.png"))[0]
    result = load_result(tmp_path, compute=COMPUTE)
    said = (tmp_path / "README.md").read_text()
    assert ("load with timm alone" in said) == (backbone == "test_vit")
    snippet = re.findall("```python\n(.*?)```", said, re.DOTALL)[-1]
    script = f"""
{snippet}
from PIL import Image
transform = timm.data.create_transform(**about["preprocessing"], is_training=False)
image = transform(Image.open({str(image)!r}).convert("RGB"))[None]
print(json.dumps(model.eval()(image).softmax(dim=1)[0].tolist()))
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    np.testing.assert_allclose(json.loads(done.stdout), result.predict(image).probabilities[0], atol=1e-5)


@pytest.mark.parametrize(
    ("module", "imports", "how"),
    [
        ("timm.models.resnet", "import json, timm\n", "load with timm alone"),
        ("adapters.backbones.vit", "import json, timm, adapters\n", "once adapters has made the backbone known to it"),
        ("pkg.nets", "import json, timm, pkg.nets\n", "once pkg.nets has made the backbone known to it"),
        ("__main__", "# run what registers the backbone first\nimport json, timm\n", "once the code that registers"),
    ],
)
def test_the_card_imports_the_module_that_registers_a_backbone(module, imports, how, monkeypatch):
    def entry():
        pass

    entry.__module__ = module
    monkeypatch.setattr("timm.model_entrypoint", lambda _: entry)
    config, preprocessing, images = {"method": "lora"}, {"input_size": (3, 32, 32)}, {"train": 8}
    own = Description("spots", ("a", "b"), False, NAME, "", config, preprocessing, images, None, None, 10, 1.0)
    said = card(own, merged=True)
    assert f"```python\n{imports}from safetensors" in said
    assert how in said


def test_the_doctor_says_what_is_there():
    facts = as_json("doctor")
    assert torch.__version__.startswith(facts["torch"])
    assert "cpu" in facts["devices"]


def test_a_result_says_how_each_class_does_on_the_test_images(tuned, folder):
    own = Description.read(tuned.out)
    assert [row["class"] for row in own.test_by_class] == ["dark", "light"]
    assert [row["images"] for row in own.test_by_class] == [5, 5]
    right = sum(row["recall"] * row["images"] for row in own.test_by_class)
    assert right / 10 == pytest.approx(own.test.accuracy)
    again = load_result(tuned.out, compute=COMPUTE).validate(folder)
    assert [row["recall"] for row in own.test_by_class] == pytest.approx(list(again.recall))
    assert "| dark | 5 |" in (tuned.out / "README.md").read_text()


def test_tune_takes_losses_sampling_and_logs(folder, tmp_path):
    given = ("tune", folder, "-o", tmp_path / "out", "--method", "bitfit", "--epochs", "1")
    as_json(*given, "--loss", "weighted_cross_entropy", "--sampling", "balanced", "--log", "csv")
    identity = json.loads(torch.load(tmp_path / "out" / "training.pt", weights_only=True)["identity"])
    assert (identity["loss"], identity["sampling"]) == ("weighted_cross_entropy", "balanced")
    assert len((tmp_path / "out" / "metrics.csv").read_text().splitlines()) == 2
    for option, value in (("--loss", "mse"), ("--sampling", "odd"), ("--log", "wandb")):
        done = run(*given, option, value, ok=False)
        assert f"{option} {value} is unknown; choose from" in done.stderr
        assert done.stdout == ""
    with pytest.raises(SelectionError, match="needs a folder"):
        tune(folder, NAME, AdapterConfig("bitfit", epochs=1), log="csv", compute=COMPUTE, progress=False)
