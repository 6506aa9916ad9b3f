"""Small image folders to read."""

import zipfile
from zlib import crc32

import numpy as np
from PIL import Image


def write_image(path, colour=(200, 10, 10), size=(8, 6), mode="RGB", **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, colour).convert(mode).save(path, **options)


def make_folder(root, classes=("cat", "dog"), per_class=3):
    for c, name in enumerate(classes):
        for i in range(per_class):
            write_image(root / name / f"{i}.png", (40 * c, 10 * i, crc32(root.name.encode()) % 256))
    return root


def photographs(root, classes=("cat", "dog"), per_class=6, size=(90, 70), seed=0):
    """JPEG files of noise that no two resizes turn into the same pixels."""
    generator = np.random.default_rng(seed)
    for name in classes:
        (root / name).mkdir(parents=True)
        for i in range(per_class):
            pixels = generator.integers(0, 255, (size[1] + i, size[0], 3), np.uint8)
            Image.fromarray(pixels).save(root / name / f"{i}.jpg", quality=80)
    return root


def zip_of(folder, path):
    with zipfile.ZipFile(path, "w") as archive:
        for file in sorted(p for p in folder.rglob("*") if p.is_file()):
            archive.write(file, file.relative_to(folder.parent))
    return path


def damage(path):
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (16, 16, 3), np.uint8)).save(path)
    path.write_bytes(path.read_bytes()[:400])
