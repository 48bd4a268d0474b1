#!/usr/bin/env bash
# Start a tool once per GPU of this machine: tools/dist_train.sh NUM_GPUS tools/TOOL.py config.yaml [key=value ...]
# Each takes its share of the photos of every training step and of what is computed photo by photo; the first reports.
set -euo pipefail
if [ "$#" -lt 3 ] || ! [[ "$1" =~ ^[1-9][0-9]*$ ]]; then
  echo "usage: tools/dist_train.sh NUM_GPUS tools/TOOL.py config.yaml [key=value ...]" >&2
  exit 2
fi
num_gpus=$1
shift
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-$(( ($(nproc) + num_gpus - 1) / num_gpus ))}"
export WEAKSAM_PROCESSES=$num_gpus
exec "${PYTHON:-python}" -m weaksam.engine.torchrun --standalone --nproc_per_node="$num_gpus" "$@"
