from __future__ import annotations

import os
from pathlib import Path

if "PYTEST_XDIST_WORKER" in os.environ:  # tests that run side by side, and what they start, leave each other a core
    os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import pytest
import torch

import adapters  # noqa: F401  registers the bundled backbone with timm
from task2vec import Probe, Task

SHARED = Path(os.environ.get("TASK2VEC_SHARED", Path(__file__).parents[2] / "shared"))


@pytest.fixture(scope="session")
def datasets() -> Path:
    """The folder of real task zips, which users do not have."""
    return _shared("datasets")


@pytest.fixture(scope="session")
def golden() -> Path:
    """The folder of reference numbers, which users do not have."""
    return _shared("golden")


@pytest.fixture(scope="session")
def pretrained_vit() -> Path:
    """ImageNet weights of ViT-tiny, which users have from timm."""
    return _shared("weights") / "vit_tiny_patch16_224.safetensors"


def _shared(name: str) -> Path:
    folder = SHARED / name
    if not folder.exists():
        pytest.skip(f"there is no {folder}; set TASK2VEC_SHARED to the folder that holds {name}/")
    return folder


def random_task(num_images: int = 12, num_classes: int = 3, size: int = 32, seed: int = 0) -> Task:
    """Noise whose brightness tells its class, so that a classifier has something to learn."""
    generator = np.random.default_rng(seed)
    labels = np.arange(num_images) % num_classes
    pixels = generator.integers(0, 128, (num_images, size, size, 3)) + labels[:, None, None, None] * 127 // num_classes
    return Task.from_arrays(pixels.astype(np.uint8), labels, name="noise")


def plain_probe(module: torch.nn.Module, classifier: str, size: int = 32) -> Probe:
    """A probe around any network, with nothing but scaling for preprocessing."""

    def transform(image):
        pixels = torch.from_numpy(np.array(image.resize((size, size))))
        return (pixels.permute(2, 0, 1).float() / 255 - 0.5) / 0.25

    return Probe(module, classifier, transform, preprocessing=f"scaled to {size}")
