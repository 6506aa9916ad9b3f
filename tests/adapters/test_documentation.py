"""The documentation says what the register of the methods says."""

import sys
from pathlib import Path

import pytest

from adapters import METHODS
from tests.adapters.families import table

ROOT = Path(__file__).parents[2]


@pytest.fixture
def page_maker(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    import adapters_page

    yield adapters_page
    sys.modules.pop("adapters_page", None)


def test_the_documented_pairs_are_those_that_are_tested():
    assert table() in (ROOT / "docs" / "adapters.md").read_text()


def test_readme_and_page_show_the_register_of_methods(page_maker):
    assert page_maker.readme_table() in (ROOT / "README.md").read_text()
    assert page_maker.official_table() in (ROOT / "docs" / "adapters.md").read_text()
    assert page_maker.rules_table() in (ROOT / "docs" / "adapters.md").read_text()
    assert page_maker.settings_table() in (ROOT / "docs" / "adapters.md").read_text()


def test_every_method_says_what_it_trains_and_what_it_equals():
    for method in METHODS.values():
        assert method.trains
        assert method.official.equal
