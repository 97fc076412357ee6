#!/bin/bash
# Bakes CIFAR-10 as a Slurm array: eight tasks, each of which bakes every eighth shard into one directory.
#
# First, once, where the network is (the tasks only read the data; this bakes nothing):
#     python -m precompute --epochs 25 --data-dir "$HOME/data" --out "$HOME/shards" --dry-run
# Then:
#     sbatch examples/slurm.sh
# A task that is preempted, or whose node fails, is started again by Slurm (--requeue); after any other failure the same
# command goes on with what is missing. Afterwards `python -m shards info $HOME/shards/cifar10` says what is missing, if anything.
#
#SBATCH --job-name=prebake
#SBATCH --array=0-7
#SBATCH --cpus-per-task=4
#SBATCH --mem=8G
#SBATCH --time=01:00:00
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=prebake-%A-%a.log
set -euo pipefail
. "$HOME/prebake/.venv/bin/activate"
cd "$HOME/prebake"

# Tasks count from 0, as the array above does.
# srun takes over no --cpus-per-task since Slurm 22.05.
srun --cpus-per-task="$SLURM_CPUS_PER_TASK" python -m precompute --epochs 25 --data-dir "$HOME/data" --out "$HOME/shards" \
    --workers "$SLURM_CPUS_PER_TASK" --task "$SLURM_ARRAY_TASK_ID/$SLURM_ARRAY_TASK_COUNT"
