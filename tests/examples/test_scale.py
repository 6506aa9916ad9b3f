"""The files that clusters are started from."""

import subprocess
from pathlib import Path

import pytest
import yaml

SCALE = Path(__file__).parents[2] / "examples" / "scale"


def test_ray_takes_the_file_of_machines_by_ssh():
    pytest.importorskip("ray", reason="Ray is not installed; pip install '.[ray]'")
    from ray.autoscaler._private.util import prepare_config, validate_config

    validate_config(prepare_config(yaml.safe_load((SCALE / "cluster.yaml").read_text())))


SHIMS = {
    "scontrol": 'echo "first"; echo "second"',
    # What srun is to run is written down without srun's own options; the command takes longer than starting the others.
    "srun": """
while [[ $1 == --* ]]; do [[ $1 == --overlap ]] && shift || shift 2; done
echo "srun $*" >> "$SAID"
[[ $1 == task2vec ]] && sleep 1 || true
""",
    "ray": "exit 0",
}


def test_the_slurm_script_starts_a_head_the_other_machines_and_the_command(tmp_path):
    """SLURM's commands, and what they would start, are written down here instead: there is no SLURM to run them."""
    for name, text in SHIMS.items():
        (tmp_path / name).write_text(f"#!/usr/bin/env bash\n{text}\n")
        (tmp_path / name).chmod(0o755)
    environment = {
        "PATH": f"{tmp_path}:/usr/bin:/bin",
        "SAID": str(tmp_path / "said"),
        "SLURM_JOB_NODELIST": "first,second",
        "SLURM_CPUS_PER_TASK": "16",
        "SLURM_JOB_NUM_NODES": "2",
    }
    command = ["bash", str(SCALE / "slurm.sh"), "grid.toml", "trials.db"]
    subprocess.run(command, env=environment, check=True, timeout=60)
    said = sorted((tmp_path / "said").read_text().splitlines())
    assert said == [
        "srun ray start --address first:6379 --num-cpus 16 --num-gpus 0 --block",
        "srun ray start --head --port 6379 --num-cpus 16 --num-gpus 0 --block",
        "srun task2vec trials run grid.toml --store trials.db --ray-address first:6379",
    ]
