"""Small pictures of a task's images: what is kept, and what is refused from strangers."""

import dataclasses
import io
import json

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import load_file, save_file

import task2vec
from task2vec import EmbeddingError, Task, TaskEmbedding, Thumbnail
from task2vec.thumbnails import COUNT, LARGEST, SIDE, thumbnails_of
from tests.conftest import random_task
from tests.selection.test_store import embedding


def picture(size=(96, 60), form="WEBP", **options):
    written = io.BytesIO()
    Image.effect_mandelbrot(size, (-2, -1, 1, 1), 50).convert("RGB").save(written, form, **options)
    return written.getvalue()


def test_an_embedding_has_pictures_only_where_they_were_asked_for(tmp_path):
    task, probe = random_task(24, 3), task2vec.load_probe()
    plain, pictured = (task2vec.embed(task, probe, thumbnails=wanted) for wanted in (False, True))
    assert plain.thumbnails == ()
    np.testing.assert_array_equal(plain.fisher, pictured.fisher)
    assert len(pictured.thumbnails) == COUNT
    pictured.save(tmp_path / "noise.safetensors")
    assert TaskEmbedding.load(tmp_path / "noise.safetensors").thumbnails == pictured.thumbnails


def test_pictures_look_like_their_images():
    ramp = np.linspace(0, 255, 300, dtype=np.uint8)
    images = np.stack([np.broadcast_to(ramp, (200, 300)), np.broadcast_to(ramp[::-1], (200, 300))])
    task = Task.from_arrays(images, ["up", "down"])
    for label, webp in thumbnails_of(task):
        with Image.open(io.BytesIO(webp)) as found:
            assert found.size == (SIDE, SIDE * 200 // 300)
            row = np.asarray(found.convert("L"), float)[30]
        wanted = np.linspace(0, 255, SIDE)
        assert np.abs(row - (wanted if label == "up" else wanted[::-1])).mean() < 6


@pytest.mark.parametrize("num_classes", [2, 7, 16, 40])
def test_as_many_classes_are_shown_as_there_is_room_for(num_classes):
    labels = [thumbnail.label for thumbnail in thumbnails_of(random_task(120, num_classes))]
    assert len(labels) == COUNT
    assert len(set(labels)) == min(num_classes, COUNT)


def test_an_image_of_several_classes_is_labelled_with_all_of_them():
    images = np.zeros((3, 8, 8), np.uint8)
    task = Task.from_arrays(images, np.array([[1, 1], [1, 0], [0, 0]]), class_names=["oak", "ash"])
    assert [thumbnail.label for thumbnail in thumbnails_of(task)] == ["oak, ash", "oak", "none"]


def test_what_a_camera_wrote_beside_the_pixels_is_left_out(tmp_path):
    exif = Image.Exif()
    exif[0x010F] = "Maker of the camera"
    for label in ("a", "b"):
        (tmp_path / label).mkdir()
        (tmp_path / label / "one.jpg").write_bytes(picture(form="JPEG", exif=exif))
    pictures = thumbnails_of(Task.from_folder(tmp_path))
    assert len(pictures) == 2
    for _, webp in pictures:
        assert b"Maker" not in webp
        assert not dict(Image.open(io.BytesIO(webp)).getexif())


def animated():
    frames = [Image.new("RGB", (20, 20), colour) for colour in ("red", "blue")]
    written = io.BytesIO()
    frames[0].save(written, "WEBP", save_all=True, append_images=frames[1:])
    return written.getvalue()


GOOD = picture()


@pytest.mark.parametrize(
    ("webp", "said"),
    [
        (b"", "is not a plain WebP picture alone"),
        (b"<svg onload=alert(1)>", "is not a plain WebP picture alone"),
        (picture(form="PNG"), "is not a plain WebP picture alone"),
        (picture(exif=b"Exif\0\0secret"), "is not a plain WebP picture alone"),
        (animated(), "is not a plain WebP picture alone"),
        (GOOD + b"#!/bin/sh", "is not a plain WebP picture alone"),
        (GOOD[:-10], "is not a plain WebP picture alone"),
        (GOOD[:20] + bytes(len(GOOD) - 20), "cannot be decoded"),
        (picture((97, 10)), "has 97 x 10 pixels, more than 96 x 96"),
        (bytes(LARGEST + 1), "has 32,769 bytes, more than 32,768"),
    ],
)
def test_whatever_is_no_small_picture_is_refused(webp, said):
    with pytest.raises(EmbeddingError, match=f"thumbnail 1 {said}"):
        dataclasses.replace(embedding(), thumbnails=(Thumbnail("a", GOOD), Thumbnail("b", webp)))


@pytest.mark.parametrize("label", ["x" * 101, "bell\x07", 7])
def test_labels_that_are_none_are_refused(label):
    with pytest.raises(EmbeddingError):
        dataclasses.replace(embedding(), thumbnails=(Thumbnail(label, GOOD),))


def test_too_many_are_refused():
    with pytest.raises(EmbeddingError, match="there are 17 thumbnails; a task has 16 at most"):
        dataclasses.replace(embedding(), thumbnails=(Thumbnail("a", GOOD),) * 17)


def test_an_embeddings_file_with_other_pictures_is_refused(tmp_path):
    path = tmp_path / "birds.safetensors"
    dataclasses.replace(embedding(), thumbnails=(Thumbnail("a", GOOD),)).save(path)
    tensors = load_file(path)
    facts = json.loads(path.read_bytes()[8 : 8 + int.from_bytes(path.read_bytes()[:8], "little")])["__metadata__"]
    tensors["thumbnail.0"] = np.frombuffer(picture(form="PNG"), np.uint8)
    save_file(tensors, path, facts)
    with pytest.raises(EmbeddingError, match="thumbnail 0 is not a plain WebP"):
        TaskEmbedding.load(path)
    del tensors["thumbnail.0"]
    save_file(tensors, path, facts)
    with pytest.raises(EmbeddingError, match="lacks a thumbnail"):
        TaskEmbedding.load(path)
