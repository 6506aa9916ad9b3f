"""Training logs beside `metrics.jsonl`: a table, or TensorBoard's files, written after every epoch.

Both are callbacks for `on_epoch` of `adapters.fit`.
"""

from __future__ import annotations

import csv
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from torch import nn

from adapters.errors import ConfigError

Log = Callable[[nn.Module, Mapping[str, float]], None]
TABLE, EVENTS = "metrics.csv", "tensorboard"


def training_log(kind: str, folder: str | Path) -> Log:
    """A callback that writes each epoch's record to a folder.

    Args:
        kind: `csv` for `metrics.csv`, or `tensorboard` for event files in `tensorboard/`.
        folder: Made if it is not there.

    Raises:
        ConfigError: there is no such kind, or its package is not installed.
    """
    if kind not in LOGS:
        raise ConfigError(f"there is no training log {kind!r}; choose from {', '.join(sorted(LOGS))}")
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    return LOGS[kind](folder)


def _csv_log(folder: Path) -> Log:
    path = folder / TABLE

    def log(_: nn.Module, record: Mapping[str, float]) -> None:
        # A training that resumes goes on in the same table, one that begins starts a new one.
        is_new = record["epoch"] == 1 or not path.exists()
        columns = [*(name for name in record if name != "best"), "best"]
        with path.open("w" if is_new else "a", newline="") as file:
            writer = csv.DictWriter(file, columns, restval=0)
            if is_new:
                writer.writeheader()
            writer.writerow(record)

    return log


def _tensorboard_log(folder: Path) -> Log:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise ConfigError("tensorboard is not installed; pip install tensorboard, or log to csv") from error
    writer: Any = SummaryWriter(str(folder / EVENTS))

    def log(_: nn.Module, record: Mapping[str, float]) -> None:
        for name, value in record.items():
            if name not in ("epoch", "best"):
                writer.add_scalar(name, value, int(record["epoch"]))
        writer.flush()

    return log


LOGS: dict[str, Callable[[Path], Log]] = {"csv": _csv_log, "tensorboard": _tensorboard_log}
"""What can be logged to, by the name of the option."""
