#!/usr/bin/env bash
# Start a tool on a Slurm cluster: tools/slurm_train.sh PARTITION NUM_TASKS tools/TOOL.py config.yaml [key=value ...]
# One task per GPU; GPUS_PER_NODE (8), CPUS_PER_TASK (5) and SRUN_ARGS come from the environment. OUT must be on a shared disk.
set -euo pipefail
if [ "$#" -lt 4 ] || ! [[ "$2" =~ ^[1-9][0-9]*$ ]]; then
  echo "usage: tools/slurm_train.sh PARTITION NUM_TASKS tools/TOOL.py config.yaml [key=value ...]" >&2
  exit 2
fi
partition=$1
num_tasks=$2
shift 2
gpus_per_node=${GPUS_PER_NODE:-8}
per_node=$(( num_tasks < gpus_per_node ? num_tasks : gpus_per_node ))
# These say that the ranks of the tasks count: those of a bare srun do not
export WEAKSAM_SLURM=1 WEAKSAM_PROCESSES=$num_tasks
# shellcheck disable=SC2086  # SRUN_ARGS is a list of words
exec srun --partition="$partition" --ntasks="$num_tasks" --ntasks-per-node="$per_node" --gres="gpu:$per_node" \
  --cpus-per-task="${CPUS_PER_TASK:-5}" --kill-on-bad-exit=1 ${SRUN_ARGS:-} "${PYTHON:-python}" -u "$@"
