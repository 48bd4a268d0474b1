#!/usr/bin/env bash
# Start a tool once per GPU of this machine: tools/dist_train.sh NUM_GPUS tools/TOOL.py config.yaml [key=value ...]
# Each takes its share of the photos of every training step and of what is computed photo by photo; the first reports.
set -euo pipefail
if [ "$#" -lt 3 ] || ! [[ "$1" =~ ^[1-9][0-9]*$ ]]; then
  echo "usage: tools/dist_train.sh NUM_GPUS tools/TOOL.py config.yaml [key=value ...]" >&2
  exit 2
fi
exec "${PYTHON:-python}" -m weaksam.engine.launchers torchrun "$@"
