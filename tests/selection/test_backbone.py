"""Backbones for images of another size than their own."""

from unittest.mock import patch

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import save_file

import adapters
from adapters import AdapterConfig
from adapters.data import transform_of
from adapters.sites import image_size
from selection import SelectionError, facts_of, load_backbone, load_result, tune
from selection.results.result import probabilities_of
from task2vec import Compute, read_splits
from tests.selection.test_cli import as_json, run

SIZE = 64
COMPUTE = Compute("cpu", "none", workers=0)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Two splits of two classes of noise, one brighter than the other."""
    root = tmp_path_factory.mktemp("data") / "spots"
    generator = np.random.default_rng(0)
    for split in ("train", "test"):
        for label, name in enumerate(("dark", "light")):
            (root / split / name).mkdir(parents=True)
            for i in range(8):
                pixels = generator.integers(0, 160, (40, 36, 3)) + 80 * label
                Image.fromarray(pixels.astype(np.uint8)).save(root / split / name / f"{i}.png")
    return root


def weights_of(name, folder):
    torch.manual_seed(0)
    path = folder / f"{name}.safetensors"
    save_file(timm.create_model(name).state_dict(), path)
    return path


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("test_vit", {"img_size": SIZE}),
        ("test_byobnet", {}),
        ("swin_tiny_patch4_window7_224", {"img_size": SIZE}),
    ],
)
def test_a_backbone_takes_images_of_the_size_that_is_asked_for(name, arguments, tmp_path):
    weights = weights_of(name, tmp_path)
    model = load_backbone(name, weights, image_size=SIZE).eval()
    assert image_size(model) == (3, SIZE, SIZE)
    image = transform_of(model)(Image.effect_noise((50, 80), 90).convert("RGB"))
    assert image.shape == (3, SIZE, SIZE)
    overlay = {"file": str(weights)}
    plain = timm.create_model(name, pretrained=True, pretrained_cfg_overlay=overlay, **arguments).eval()
    with torch.no_grad():
        torch.testing.assert_close(model(image[None]), plain(image[None]))


@pytest.mark.parametrize(
    ("name", "size", "message"),
    [
        ("efficientformer_l1", 96, "takes no images of 96 x 96 pixels"),
        ("xcit_nano_12_p16_224", 100, "takes no images of 100 x 100 pixels"),
        ("test_vit", 8, "takes no images of 8 x 8 pixels"),
        ("levit_128s", 64, "cannot load weights from .* for images of 64 x 64 pixels"),
    ],
)
def test_a_size_that_a_backbone_cannot_take_is_refused(name, size, message, tmp_path):
    with pytest.raises(SelectionError, match=message):
        load_backbone(name, weights_of(name, tmp_path), image_size=size)


@pytest.mark.parametrize("name", ["test_vit", "test_byobnet"])
@pytest.mark.parametrize("method", ["ssf", "head2toe"])
def test_a_result_remembers_the_size(name, method, folder, tmp_path):
    weights = weights_of(name, tmp_path)
    model = load_backbone(name, weights, image_size=SIZE)
    tuned = tune(folder, model, AdapterConfig(method, epochs=1), compute=COMPUTE, out=tmp_path / "out", progress=False)
    images = read_splits(folder).test
    expected, _ = probabilities_of(tuned.model, transform_of(tuned.model), images, num_classes=2, compute=COMPUTE)
    backbone = None if tuned.merged is not None else load_backbone(name, weights, image_size=SIZE)
    result = load_result(tmp_path / "out", backbone=backbone, compute=COMPUTE)
    assert image_size(result.model) == (3, SIZE, SIZE)
    np.testing.assert_allclose(result.predict(images).probabilities, expected, atol=1e-5)


def test_the_command_line_reads_images_at_the_size_that_is_given(folder, tmp_path):
    name = ("--backbone", adapters.DEFAULT_BACKBONE, "--image-size", "16")
    tuned = as_json("tune", folder, "-o", tmp_path / "out", "--method", "linear", *name)
    result = load_result(tmp_path / "out", compute=COMPUTE)
    assert result.description.preprocessing["input_size"] == (3, 16, 16)
    assert tuned["test_accuracy"] == result.validate(folder).measured.accuracy
    with patch("selection.cli.recommend.facts_of", wraps=facts_of) as looked:
        run("recommend", folder, *name)
    assert image_size(looked.call_args.args[1]) == (3, 16, 16)


def test_a_size_without_a_backbone_or_images_is_refused_on_the_command_line(folder, tmp_path):
    found = run("recommend", folder, "--image-size", "16", ok=False)
    assert "--image-size 16 is of one model; name it with --backbone" in found.stderr
    run("embed", folder, "-o", tmp_path / "saved.safetensors")
    found = run("recommend", tmp_path / "saved.safetensors", "--image-size", "16", ok=False)
    assert "--image-size 16 is of images, and an embedding has none; leave it out" in found.stderr
