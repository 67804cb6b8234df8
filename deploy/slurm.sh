#!/usr/bin/env bash
# Two nodes of a Slurm cluster, a worker on each:
#   sbatch slurm.sh --model=model.keras --data=photos --workdir=runs/photos --batch_size=128
# The folder it is called from must be one that all nodes see.
#SBATCH --job-name=tf_finetune
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=1
#SBATCH --cpus-per-task=8
#SBATCH --time=12:00:00
# Two minutes before the time is over all are told, write a checkpoint and end: submit again.
#SBATCH --signal=TERM@120
#SBATCH --requeue
set -euo pipefail

port=${TF_FINETUNE_PORT:-29500}
addresses=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | sed "s/.*/\"&:$port\"/" | paste -sd, -)
export addresses

# A worker that fails ends the others, as they would themselves.
srun --kill-on-bad-exit=1 bash -c '
  export TF_CONFIG="{\"cluster\": {\"worker\": [$addresses]}, \"task\": {\"type\": \"worker\", \"index\": $SLURM_PROCID}}"
  exec python -m tf_finetune.main --strategy=multi_worker "$@"
' bash "$@"
