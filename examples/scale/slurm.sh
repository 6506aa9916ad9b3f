#!/usr/bin/env bash
# A grid on the machines of a SLURM job: sbatch --nodes 8 examples/scale/slurm.sh grid.toml STORE
#
# The first machine runs Ray's head and the command; all run trials. A job that reaches its time limit goes on where it
# was when it is submitted again. The environment that is active when it is submitted must be there on all machines.
#SBATCH --job-name task2vec
#SBATCH --ntasks-per-node 1
#SBATCH --cpus-per-task 16
#SBATCH --time 12:00:00
set -euo pipefail
grid=$1 store=$2 port=6379
gpus=${SLURM_GPUS_ON_NODE:-0}
head=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | sed -n 1p)
export RAY_USAGE_STATS_ENABLED=0
ulimit -n 65535 || true

srun --nodes 1 --ntasks 1 --nodelist "$head" \
    ray start --head --port "$port" --num-cpus "$SLURM_CPUS_PER_TASK" --num-gpus "$gpus" --block &
until ray status --address "$head:$port" >/dev/null 2>&1; do sleep 2; done
if [ "$SLURM_JOB_NUM_NODES" -gt 1 ]; then
    srun --nodes $((SLURM_JOB_NUM_NODES - 1)) --ntasks $((SLURM_JOB_NUM_NODES - 1)) --exclude "$head" \
        ray start --address "$head:$port" --num-cpus "$SLURM_CPUS_PER_TASK" --num-gpus "$gpus" --block &
fi
srun --overlap --nodes 1 --ntasks 1 --nodelist "$head" \
    task2vec trials run "$grid" --store "$store" --ray-address "$head:$port"
