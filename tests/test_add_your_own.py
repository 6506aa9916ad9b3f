"""docs/tutorials/add_your_own.py does what it says, and somebody else's installed package is found."""

import os
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "tutorials" / "add_your_own.py").read_text()
CELLS = re.split(r"^# %%.*\n", PAGE, flags=re.M)


def run(code, *folders):
    path = os.pathsep.join([*map(str, folders), str(ROOT)])
    return subprocess.run(
        [sys.executable, "-c", code], env=os.environ | {"PYTHONPATH": path}, capture_output=True, text=True
    )


def cell_of(family):
    """The tutorial's cell that enters something into a register."""
    (cell,) = [cell for cell in CELLS if f"@register_{family}(" in cell]
    return cell


@pytest.mark.slow
def test_the_examples_of_the_page_run_one_after_another():
    assert [len(re.findall(rf"@register_{kind}\(", PAGE)) for kind in ("method", "distance", "estimator")] == [1, 1, 1]
    assert "@register_recommender(" in PAGE
    done = run(PAGE)
    assert done.returncode == 0, done.stderr


def install(folder, name, files, points):
    """Have pip install a wheel that is made here, so that no build tool is needed."""
    wheel = folder / f"{name}-1.0-py3-none-any.whl"
    info = f"{name}-1.0.dist-info"
    files = files | {
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name.replace('_', '-')}\nVersion: 1.0\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        f"{info}/entry_points.txt": points,
    }
    with zipfile.ZipFile(wheel, "w") as archive:
        for path, text in files.items():
            archive.writestr(path, text)
        archive.writestr(f"{info}/RECORD", "".join(f"{path},,\n" for path in [*files, f"{info}/RECORD"]))
    target = folder / "site"
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--target", str(target)]
    subprocess.run([*pip, str(wheel)], check=True, capture_output=True)
    return target


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """A package with the page's method and distance, a name that is taken, a module that fails, and one that lies."""
    method, distance = cell_of("method"), "import numpy as np\n" + cell_of("distance")
    return install(
        tmp_path_factory.mktemp("wheels"),
        "my_adapters",
        {
            "my_adapters/__init__.py": "",
            "my_adapters/gate.py": method,
            "my_adapters/log_euclidean.py": distance,
            "my_adapters/again.py": method.replace('"gate"', '"lora"'),
            "my_adapters/broken.py": "raise RuntimeError('no such accelerator')",
        },
        "[task2vec.methods]\ngate = my_adapters.gate\nlora = my_adapters.again\nbroken = my_adapters.broken\n"
        "absent = my_adapters\n\n[task2vec.distances]\nlog_euclidean = my_adapters.log_euclidean\n",
    )


def test_an_installed_package_adds_a_method_and_a_distance_without_being_imported(site):
    code = (
        "import sys, adapters, numpy, task2vec\n"
        "adapters.AdapterConfig('lora')\n"
        "assert 'my_adapters' not in sys.modules\n"  # a known name loads no plugin
        "assert adapters.AdapterConfig('gate', strength=2).label == 'gate strength=2'\n"
        "assert 'strength' in adapters.all_settings()\n"
        "print(task2vec.distance([1.0], [numpy.e], 'log_euclidean'))\n"
        "print(*adapters.METHODS)"
    )
    done = run(code, site)
    distance, names = done.stdout.splitlines()
    assert distance == "1.0"
    assert {"gate", "lora"} <= set(names.split())
    assert not {"broken", "absent"} & set(names.split())
    left_out = re.findall(r"the method '(\w+)' of the package my-adapters is left out: (.*)", done.stderr)
    assert dict(left_out) == {
        "lora": "ValueError: there is a method 'lora' already; choose another name",
        "broken": "RuntimeError: no such accelerator",
        "absent": "LookupError: my_adapters enters no method of this name",
    }
    assert len(left_out) == 3  # each once


@pytest.mark.parametrize("overwritten", [True, False])
def test_the_other_package_of_the_name_adapters_is_told_of(tmp_path, overwritten):
    files = {"adapters/other.py": ""}
    if overwritten:  # pip put both into one folder, and ours came last
        files |= {str(path.relative_to(ROOT)): path.read_text() for path in (ROOT / "adapters").rglob("*.py")}
    site = install(tmp_path, "adapters", files, "")
    place = "insert(0, " if overwritten else "append("
    done = run(f"import sys; sys.path.{place}{str(site)!r}); import adapters")
    last = done.stderr.strip()
    assert "AdapterHub's package `adapters` 1.0 is installed beside task2vec-select" in last
    assert ("ImportError" in last) == overwritten == (done.returncode == 1)
    assert ("each has overwritten files of the other" in last) == overwritten
    assert "pip uninstall adapters" in last
