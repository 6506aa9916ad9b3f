from pathlib import Path

from tests.adapters.families import table


def test_the_documented_pairs_are_those_that_are_tested():
    page = Path(__file__).parents[2] / "docs" / "adapters.md"
    assert table() in page.read_text()
