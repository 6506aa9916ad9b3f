"""AdapterHub's package goes by the import name `adapters`, too, and the two cannot share an environment.

Importing this file tells whoever has both installed: with an ImportError where they lie in one folder, so that each has
overwritten files of the other, and with a warning where one only hides the other.
"""

from __future__ import annotations

import warnings
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path


def _tell_of_namesake() -> None:
    try:
        other = distribution("adapters")
    except PackageNotFoundError:
        return
    told = f"AdapterHub's package `adapters` {other.version} is installed beside task2vec-select"
    if Path(str(other.locate_file("adapters"))).resolve() == Path(__file__).parent.resolve():
        raise ImportError(
            f"{told} in the same folder, and each has overwritten files of the other; give each an environment of its "
            "own: pip uninstall adapters, then pip install --force-reinstall --no-deps task2vec-select"
        )
    warnings.warn(
        f"{told}, and `import adapters` finds only one of the two, now this one; give each an environment of its own "
        "(here: pip uninstall adapters)",
        stacklevel=2,
    )


_tell_of_namesake()
