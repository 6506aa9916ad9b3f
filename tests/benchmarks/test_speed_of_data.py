"""The benchmarks of reading and of accelerators run from end to end, at a size that any machine can take."""

import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("command", "expected"),
    [
        (["data_speed.py", "decoding", "--images", "40", "--rounds", "1"], "'1.00'"),
        (["data_speed.py", "memory", "--images", "20"], "MiB"),
        (["data_speed.py", "epoch", "--images", "20", "--network", "task2vec_vit_patch4_32"], "later epochs"),
        (["on_gpu.py", "all", "--small"], "memory / plain step"),
    ],
)
def test_the_benchmarks_run_and_print_their_rows(command, expected):
    run = subprocess.run([sys.executable, str(BENCHMARKS / command[0]), *command[1:]], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr[-2000:]
    assert expected in run.stdout
