#!/usr/bin/env bash
# Start a tool on a Slurm cluster: tools/slurm_train.sh PARTITION NUM_TASKS tools/TOOL.py config.yaml [key=value ...]
# One task per GPU; GPUS_PER_NODE (8), CPUS_PER_TASK (5) and SRUN_ARGS come from the environment. OUT must be on a shared disk.
set -euo pipefail
if [ "$#" -lt 4 ] || ! [[ "$2" =~ ^[1-9][0-9]*$ ]]; then
  echo "usage: tools/slurm_train.sh PARTITION NUM_TASKS tools/TOOL.py config.yaml [key=value ...]" >&2
  exit 2
fi
exec "${PYTHON:-python}" -m weaksam.engine.launchers slurm "$@"
