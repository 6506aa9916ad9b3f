"""How the tutorials' kernels start: figures become pictures, and no library warns of widgets that no page shows."""

from __future__ import annotations

import os
from typing import Any


def on_startup(**_: Any) -> None:
    """Kernels inherit these."""
    os.environ["MPLBACKEND"] = "module://matplotlib_inline.backend_inline"
    os.environ["PYTHONWARNINGS"] = "ignore:IProgress not found"
