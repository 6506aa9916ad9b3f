"""The house: imports run downward only, and importing it stays light."""

import ast
import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
OWN = ("task2vec", "adapters", "selection")


def test_imports_run_downward_only():
    checked = subprocess.run(
        [sys.executable, "-c", "from importlinter.cli import lint_imports_command; lint_imports_command()"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert checked.returncode == 0, checked.stdout + checked.stderr
    assert "1 kept, 0 broken" in checked.stdout


@pytest.mark.parametrize(
    ("package", "unwanted"),
    [
        ("task2vec", ("matplotlib", "sqlalchemy", "sklearn", "typer", "adapters", "selection")),
        ("adapters", ("matplotlib", "sqlalchemy", "typer", "sklearn", "task2vec", "selection")),
    ],
)
def test_importing_a_package_loads_nothing_it_does_not_need(package, unwanted):
    code = f"import sys, {package}; print([m for m in {unwanted!r} if m in sys.modules])"
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "[]"


def test_pictures_are_reachable_from_the_package_and_loaded_when_they_are():
    code = "import sys, task2vec as t; t.plot_map; print('task2vec.plots' in sys.modules, hasattr(t, 'plot_x'))"
    assert subprocess.check_output([sys.executable, "-c", code], text=True).split() == ["True", "False"]


@pytest.mark.parametrize("statement", ["import task2vec", "import adapters", "from selection import recommend"])
def test_a_torchvision_of_another_build_is_explained_in_one_sentence(statement, tmp_path):
    (tmp_path / "torchvision").mkdir()
    (tmp_path / "torchvision" / "__init__.py").write_text(
        "raise RuntimeError('operator torchvision::nms does not exist')"
    )
    code = f"import sys; sys.path.insert(0, {str(tmp_path)!r}); {statement}"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert run.returncode == 1
    last = run.stderr.strip().splitlines()[-1]
    assert last.startswith("ImportError: torchvision does not fit the installed torch")
    assert "pip install --force-reinstall torch torchvision" in last


def test_nothing_is_ever_unpickled():
    loads = r"import pickle|pickle\.load|joblib\.load|from joblib import .*\bload"
    pattern = re.compile(loads + "|weights_only=False|allow_pickle=True")
    for file in [p for package in ("task2vec", "adapters", "selection") for p in (ROOT / package).rglob("*.py")]:
        source = file.read_text()
        assert not pattern.search(source), file
        assert source.count("torch.load(") == len(re.findall(r"torch\.load\([^)]*weights_only=True", source)), file


def test_benchmarks_and_examples_name_what_there_is():
    wrong = []
    for file in [p for folder in ("benchmarks", "examples") for p in (ROOT / folder).rglob("*.py")]:
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] in OWN:
                module = importlib.import_module(node.module)
                below = [f"{node.module}.{name.name}" for name in node.names if not hasattr(module, name.name)]
                wrong += [f"{file.name}: {name}" for name in below if importlib.util.find_spec(name) is None]
    assert wrong == []
