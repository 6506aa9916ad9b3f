import dataclasses
import os
import shutil
from pathlib import Path

import pytest

from selection import TaskStore
from selection.evidence.library import EMBEDDINGS, load_library, read_embeddings

HOSTILE = "</script><img src=x onerror=\"document.title='taken'\"><b>&amp;%{x}$y"
SHOWN = (
    "mnist",
    "mnist@100",
    "sign_digits",
    "coil20",
    "cifar10",
    "tin_dogs",
    "tin_birds",
    "gtsrb",
    "att_faces",
    "smiles",
)


@pytest.fixture(scope="session")
def few():
    """Ten tasks of the shipped library with their trials, and one whose names were chosen to break pages."""
    library, store = load_library(), TaskStore()
    embeddings = {e.task: e for e in read_embeddings(EMBEDDINGS)}
    for name in SHOWN:
        task = library.task(name)
        store.add(embeddings[name], trials=task.trials, tags=task.tags, source=task.source, facts=task.facts)
    bad = dataclasses.replace(embeddings["tin_dogs"], task=HOSTILE, classes=(HOSTILE, "plain"))
    store.add(bad, trials=library.task("tin_dogs").trials[:3], tags=(HOSTILE,), source=HOSTILE)
    return store


@pytest.fixture(scope="session")
def target():
    """A stored task's half under another name."""
    half = next(e for e in read_embeddings(EMBEDDINGS) if e.task == "mnist.half1@100")
    return dataclasses.replace(half, task="digits of mine")


@pytest.fixture(scope="session")
def chromium():
    """A headless Chromium; TASK2VEC_CHROMIUM names one that is not on the path."""
    playwright = pytest.importorskip("playwright.sync_api", reason="pip install playwright to test pages in a browser")
    found = os.environ.get("TASK2VEC_CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")
    if found is None or not Path(found).exists():
        pytest.skip("no Chromium; install it (Debian: apt-get install chromium), or set TASK2VEC_CHROMIUM to its path")
    with playwright.sync_playwright() as driver:
        flags = ["--disable-dev-shm-usage", "--enable-unsafe-swiftshader"]
        browser = driver.chromium.launch(executable_path=found, args=flags)
        yield browser
        browser.close()
