"""The backbone where none is named: by the images' size and by the weights that can be had."""

import numpy as np
import pytest
import timm
from huggingface_hub import constants
from PIL import Image

import adapters
from selection import default_backbone, load_backbone
from selection.recommendation import default_backbone as module
from selection.recommendation.default_backbone import FOR_PHOTOGRAPHS, median_size, shrinking
from task2vec import Task
from tests.selection.test_cli import as_json, run


def folder_of(root, width, height, count=6):
    generator = np.random.default_rng(0)
    for label, name in enumerate(("dark", "light")):
        (root / name).mkdir(parents=True)
        for i in range(count):
            pixels = generator.integers(0, 160, (height, width, 3)) + 80 * label
            Image.fromarray(pixels.astype(np.uint8)).save(root / name / f"{i}.png")
    return root


@pytest.fixture
def no_hub(tmp_path, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)


@pytest.mark.parametrize(
    ("size", "at_hand", "answers", "name", "words"),
    [
        ((64, 200), True, True, adapters.DEFAULT_BACKBONE, "32 px is enough"),
        ((200, 100), True, False, FOR_PHOTOGRAPHS, "are at hand"),
        ((200, 100), False, True, FOR_PHOTOGRAPHS, "downloaded"),
        ((200, 100), False, False, adapters.DEFAULT_BACKBONE, "cannot be downloaded"),
    ],
)
def test_photographs_get_a_pretrained_backbone_if_its_weights_can_be_had(
    size, at_hand, answers, name, words, tmp_path, monkeypatch
):
    monkeypatch.setattr(module, "weights_at_hand", lambda _: at_hand)
    monkeypatch.setattr(module, "hub_answers", lambda: answers)
    choice = default_backbone(Task.from_folder(folder_of(tmp_path / "images", *size)))
    assert choice.name == name
    assert words in choice.reason
    assert f"{size[0]} x {size[1]}" in choice.reason


def test_the_size_is_the_median_of_what_can_be_read(tmp_path):
    root = folder_of(tmp_path / "images", 90, 70)
    (root / "dark" / "broken.png").write_bytes(b"nothing")
    Image.new("RGB", (4000, 10)).save(root / "dark" / "odd.png")
    assert median_size(Task.from_folder(root)) == (90, 70)


def test_images_that_are_shrunk_much_are_named_with_larger_backbones(tmp_path):
    task = Task.from_folder(folder_of(tmp_path / "images", 300, 260))
    said = shrinking(task, load_backbone(adapters.DEFAULT_BACKBONE))
    assert said.startswith("images of about 300 x 260 pixels are shrunk to the 32 x 32 of the backbone")
    assert FOR_PHOTOGRAPHS in said
    assert all(timm.is_model(name) for name in module.LARGER)
    assert shrinking(task, timm.create_model("vit_tiny_patch16_224")) == ""


def test_the_command_line_says_which_and_why(tmp_path, no_hub):
    root = folder_of(tmp_path / "images", 120, 100)
    done = run("recommend", root)
    said = " ".join(done.stderr.split())
    assert f"Backbone {adapters.DEFAULT_BACKBONE}: the images are about 120 x 100 pixels, but the weights" in said
    assert "are shrunk to the 32 x 32" in said
    facts = as_json("tune", root, "-o", tmp_path / "out", "--method", "ssf", "--epochs", "1")
    assert facts["backbone"] == adapters.DEFAULT_BACKBONE


def test_weights_without_a_name_are_refused(tmp_path):
    root = folder_of(tmp_path / "images", 20, 20)
    done = run("recommend", root, "--checkpoint", "x.safetensors", ok=False)
    assert "name it with --backbone" in done.stderr


def test_weights_that_fail_on_the_way_leave_the_bundled_backbone(tmp_path, no_hub, monkeypatch):
    root = folder_of(tmp_path / "images", 120, 100)
    monkeypatch.setattr(module, "hub_answers", lambda: True)  # it answers, and then the download fails
    facts = as_json("tune", root, "-o", tmp_path / "out", "--method", "linear", "--epochs", "1")
    assert facts["backbone"] == adapters.DEFAULT_BACKBONE
