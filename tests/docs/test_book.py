"""The book names everything that is public, its links lead somewhere, and it builds with its tutorials run."""

import importlib
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import typer
import yaml

from selection.cli import app
from selection.cli.lazy import LazyCommand

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = sorted(DOCS.rglob("*.md"))


def found_at(path):
    """What a dotted path names: the longest module in it, then attributes."""
    parts = path.split(".")
    for end in range(len(parts) - 1, 0, -1):
        try:
            value = importlib.import_module(".".join(parts[:end]))
        except ImportError:
            continue
        for part in parts[end:]:
            value = getattr(value, part)
        return value
    raise AssertionError(path)


@pytest.mark.parametrize("package", ["task2vec", "adapters", "selection"])
def test_every_public_name_has_its_place_in_the_reference(package):
    paths = re.findall(r"^::: (\S+)$", (DOCS / "reference" / f"{package}.md").read_text(), re.M)
    documented = {path.rpartition(".")[2]: found_at(path) for path in paths}
    public = importlib.import_module(package)
    assert sorted(set(public.__all__) - set(documented)) == []
    assert sorted(set(documented) - set(public.__all__)) == []
    for name, value in documented.items():
        assert value is getattr(public, name), f"{name} is documented by something else of this name"


def anchors_of(page):
    """What the headings of a page can be linked by."""
    text = re.sub(r"```.*?```", "", page.read_text(), flags=re.S)
    headings = re.findall(r"^#+ (.*)$", text, re.M)
    return {re.sub(r"[\s-]+", "-", re.sub(r"[^\w\s-]", "", heading).strip().lower()) for heading in headings}


@pytest.mark.parametrize("page", [*PAGES, ROOT / "README.md", ROOT / "CONTRIBUTING.md"], ids=lambda p: p.name)
def test_links_within_lead_somewhere(page):
    text = re.sub(r"```.*?```|`[^`\n]*`", "", page.read_text(), flags=re.S)
    for target, anchor in re.findall(r"\]\((?!\w+:)([^)#\s]*)(?:#([^)\s]*))?\)", text):
        there = page if not target else (page.parent / target).resolve()
        assert there.exists(), f"{page.name} links to {target}"
        if anchor and there.suffix == ".md":
            assert anchor in anchors_of(there), f"{page.name} links to {target}#{anchor}"


def quoted_commands(text):
    """What a page tells its reader to run: lines of shell blocks, and code in a sentence."""
    shell = re.findall(r"```sh\n(.*?)```", text, re.S)
    lines = [line for block in shell for line in block.replace("\\\n", " ").splitlines()]
    prose = re.sub(r"```.*?```", "", text, flags=re.S)
    return [line.strip() for line in (*lines, *re.findall(r"`([^`]+)`", prose)) if line.strip().startswith(STARTS)]


STARTS = ("task2vec ", "python benchmarks/")
READ = [*PAGES, *sorted((DOCS / "tutorials").glob("*.py")), *(ROOT / f for f in ("README.md", "CONTRIBUTING.md"))]


@pytest.mark.parametrize("page", READ, ids=lambda p: p.name)
def test_the_commands_that_are_quoted_exist(page):
    text = page.read_text()
    if page.suffix == ".py":
        text = re.sub(r"^# ?", "", text, flags=re.M)
    for line in quoted_commands(text):
        words = shlex.split(line, comments=True)
        if words[0] == "python":
            assert (ROOT / words[1]).exists(), line
            continue
        command, rest = typer.main.get_command(app), words[1:]
        while hasattr(command, "commands") and rest and not rest[0].startswith("-"):
            names = rest[0].split("|") if "|" in rest[0] else [rest[0]]
            assert set(names) <= set(command.commands), line
            command, rest = command.commands[names[0]], rest[1:]
            command = command.load() if isinstance(command, LazyCommand) else command
        known = {option for parameter in command.params for option in (*parameter.opts, *parameter.secondary_opts)}
        asked = {word.split("=")[0] for word in rest if re.fullmatch(r"--?[a-z][\w-]*(=.*)?", word)}
        assert asked <= known | {"--help"}, line


def test_every_page_is_in_the_navigation():
    text = re.sub(r"!ENV ", "", (ROOT / "mkdocs.yml").read_text())

    def leaves(entry):
        if isinstance(entry, str):
            return [entry]
        children = entry.values() if isinstance(entry, dict) else entry
        return [leaf for child in children for leaf in leaves(child)]

    listed = set(leaves(yaml.safe_load(text)["nav"]))
    tutorials = {f"tutorials/{path.name}" for path in (DOCS / "tutorials").glob("*.py")}
    assert listed == {str(page.relative_to(DOCS)) for page in PAGES} | tutorials


@pytest.mark.slow
def test_the_book_builds_with_its_tutorials_run_and_loads_nothing(tmp_path):
    pytest.importorskip("mkdocs", reason='pip install ".[docs]" to build the book')
    built = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path)],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT), "EXECUTE_TUTORIALS": "true"},
        capture_output=True,
        text=True,
    )
    assert built.returncode == 0, built.stderr[-3000:]
    for page in tmp_path.rglob("*.html"):
        text = page.read_text("utf-8")
        assert not re.search(r"<(?:script|img|iframe)[^>]*\ssrc=\"?https?:", text), page
        assert not re.search(r"<link[^>]*rel=\"?(?:stylesheet|preconnect)\"?[^>]*href=\"?https?:", text), page
        for link in re.findall(r'<a [^>]*href="(?!\w+:|//|#)([^"#?]+)', text):
            there = (tmp_path / link.lstrip("/") if link.startswith("/") else page.parent / link).resolve()
            assert there.exists(), f"{page} links to {link}"
        assert 'class="arithmatex"' not in text, f"{page} has a formula that was not drawn"
    for tutorial in (DOCS / "tutorials").glob("*.py"):
        text = (tmp_path / "tutorials" / tutorial.stem / "index.html").read_text("utf-8")
        assert "jp-OutputArea-output" in text, f"{tutorial.name} shows no output"
