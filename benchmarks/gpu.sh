#!/usr/bin/env bash
# Time every stage on a GPU, in under ten minutes with set-up, and print one Markdown table. Each row has a limit of
# its own and runs in a process of its own, so that what fails loses one row.
#
#   bash benchmarks/gpu.sh                        # the whole table on the first GPU
#   bash benchmarks/gpu.sh --device cpu --toy     # the same code at toy sizes, in a minute or two
#   bash benchmarks/gpu.sh --only sam             # the rows whose name has "sam" in it
#
# Uses the python3 of the machine (or PYTHON) with the torch that is there and installs nothing from the network. A
# folder WHEELS (default: .whl/) of small wheels is put on the path without their requirements, for what a bare
# machine lacks, such as pycocotools, segment_anything or higra; where there is a network they are fetched by
#   pip download --no-deps --only-binary :all: --python-version 3.12 -d .whl pycocotools higra
set -uo pipefail
cd "$(dirname "$0")/.."
python=${PYTHON:-python3}
added=$(mktemp -d)
trap 'rm -rf "$added"' EXIT
wheels=${WHEELS:-.whl}
if compgen -G "$wheels/*.whl" >/dev/null; then
    "$python" -m pip install --quiet --no-index --no-deps --target "$added" "$wheels"/*.whl ||
        echo "wanted the wheels of $wheels, found some that do not fit this python: their rows will fail"
fi
export PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}:$added" PYTHONDONTWRITEBYTECODE=1 TOKENIZERS_PARALLELISM=false
command -v nvidia-smi >/dev/null && nvidia-smi --query-gpu=name,memory.total,driver_version --format=csv,noheader
"$python" benchmarks/gpu.py "$@"
