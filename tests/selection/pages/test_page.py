"""The page as a file: whole, without a network, and safe from names."""

import json
import re

import pytest

import selection
from selection.pages.data import gather
from selection.pages.page import page
from tests.selection.pages.conftest import HOSTILE
from tests.selection.test_cli import run


@pytest.fixture(scope="module")
def text(few, target):
    return page(gather(few, target=target, advise=False))


def test_the_data_survives_the_page(text, few):
    found = json.loads(re.search(r'<script type="application/json" id="data">(.*?)</script>', text, re.DOTALL)[1])
    assert [task["name"] for task in found["tasks"]] == [*few.names(), "digits of mine"]
    assert found["tasks"][few.names().index(HOSTILE)]["classes"] == [HOSTILE, "plain"]


def test_a_name_cannot_leave_its_place(text):
    assert HOSTILE not in text
    assert "<img" not in text.split('id="data">')[1].split("</script>")[0]


def test_nothing_is_loaded(text):
    assert "default-src 'none'" in text
    without_scripts = re.sub(r"<script.*?</script>", "", text, flags=re.DOTALL)
    assert not re.search(r"\b(src|href)=[\"'](?!#)", without_scripts)
    assert "url(" not in without_scripts


def test_commands_write_the_pages(target, tmp_path):
    target.save(tmp_path / "mine.safetensors")
    store = selection.TaskStore(tmp_path / "few.db")
    library = selection.load_library()
    for name in ("mnist", "coil20", "tin_dogs", "gtsrb"):
        task = library.task(name)
        store.add(library.embeddings(name=name)[0], trials=task.trials, source=task.source)
    store.close()
    said = run("atlas", "few.db", "-o", "atlas.html", "--target", "mine.safetensors", cwd=tmp_path).stdout
    assert "wrote atlas.html" in said
    assert "digits of mine" in (tmp_path / "atlas.html").read_text("utf-8")
    report = ("recommend", "mine.safetensors", "--store", "few.db", "--report", "report.html", "--json")
    answer = json.loads(run(*report, cwd=tmp_path).stdout)
    assert json.dumps(answer["explanation"])[1:-1] in (tmp_path / "report.html").read_text("utf-8")
    missing = run("atlas", "none.db", cwd=tmp_path, ok=False)
    assert "there is no task store at none.db" in missing.stderr


@pytest.mark.slow
def test_the_shipped_library_takes_less_than_8_megabytes(tmp_path):
    written = selection.atlas(selection.load_library(), tmp_path / "atlas.html")
    assert written.stat().st_size < 8e6
