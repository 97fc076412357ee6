#!/bin/bash
# Bake CIFAR-10 as a Slurm array. Each of the eight tasks bakes every eighth shard into one directory.
#
# First download the data once, on a machine with a network. This bakes nothing:
#     prebake precompute --epochs 25 --data-dir "$HOME/data" --out "$HOME/shards" --dry-run
# Then submit the array:
#     sbatch examples/slurm.sh
# Slurm restarts a task that is preempted or whose node fails (--requeue). After any other failure, submit the same file
# again: it bakes the missing shards. `prebake info $HOME/shards/cifar10` names them.
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

# Tasks count from 0, as the array does. srun ignores the #SBATCH line of --cpus-per-task since Slurm 22.05.
srun --cpus-per-task="$SLURM_CPUS_PER_TASK" prebake precompute --epochs 25 --data-dir "$HOME/data" --out "$HOME/shards" \
    --workers "$SLURM_CPUS_PER_TASK" --task "$SLURM_ARRAY_TASK_ID/$SLURM_ARRAY_TASK_COUNT"
