"""Relative error of the Fisher against brute-force per-sample autograd, architecture by architecture.

python benchmarks/correctness.py
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import torch
import typer
from page import table, write_section

sys.path.insert(0, str(Path(__file__).parents[1]))

from task2vec.classifier import fit_classifier
from task2vec.fisher import ESTIMATORS, DiagonalFisher, Settings
from task2vec.inputs import ProbeInputs
from task2vec.plan import DEFAULT_L2
from task2vec.progress import silent
from tests.conftest import plain_probe, random_task
from tests.task2vec.brute_force import all_labels, brute_force, relative_error
from tests.task2vec.networks import LARGER, NETWORKS

IMAGES = 6


def error(name: str, dtype: torch.dtype) -> float:
    """Of the exact Fisher of a few images in three classes, under random weights."""
    torch.manual_seed(0)
    task = random_task(IMAGES, size=LARGER.get(name, 32))
    module, classifier_name = NETWORKS[name]()
    probe = plain_probe(module.to(dtype), classifier_name, LARGER.get(name, 32))
    inputs = ProbeInputs(task, probe, from_layer=None, batch_size=4, report=silent)
    classifier = fit_classifier(inputs.features, task.labels, task.num_classes, l2=DEFAULT_L2)
    fisher = DiagonalFisher(inputs, classifier, batch_size=4, dtype=dtype, report=silent)
    found = ESTIMATORS["exact"](fisher, Settings(1, np.random.default_rng(0))).fisher
    return float(relative_error(found, brute_force(task, probe, classifier, all_labels)))


def main() -> None:
    """Measure every network of the tests in both precisions and write the section of docs/benchmarks.md."""
    rows = []
    for name in NETWORKS:
        rows.append([name, *(f"{error(name, dtype):.0e}" for dtype in (torch.float32, torch.float64))])
        typer.echo(rows[-1])
    body = f"""The exact Fisher of {IMAGES} images in three classes against autograd, one image and one label at a time:
relative error of the whole vector. The networks are small ones of each architecture, with random weights
(`tests/task2vec/networks.py`).

{table(["", "float32", "float64"], rows)}"""
    write_section("correctness", "Correctness", "python benchmarks/correctness.py", body)


if __name__ == "__main__":
    typer.run(main)
