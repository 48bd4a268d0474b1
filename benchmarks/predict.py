"""Time the first prediction of a new process, and a photo by torch and by ONNX Runtime on one core.

    python benchmarks/predict.py start [--weights OUT/retrain/checkpoint.safetensors] --photo FILE
    OMP_NUM_THREADS=1 taskset -c 0 python benchmarks/predict.py onnx [--weights FILE] --photo FILE --size 480x640

``start``: the files are read once before, so that they are in the page cache; then the median of five processes that
import weaksam, load the checkpoint and predict on a photo, in wall and in CPU seconds. ``onnx``: exports, prints the
largest differences and the size of the file, and the median of ten photos each by turns, in wall and CPU milliseconds;
both look at the photo once. Without ``--weights`` the default detector with untrained weights, which costs the same but
for the number of boxes that it suppresses.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import torch

from weaksam.data.images import read_image
from weaksam.models.backbones.settings import BackboneSettings
from weaksam.models.detectors.faster_rcnn import build_faster_rcnn
from weaksam.prediction.checkpoint import (
    Checkpoint,
    CheckpointHeader,
    read_checkpoint,
    used_backbone,
    used_settings,
)
from weaksam.prediction.export_check import seen_once
from weaksam.prediction.exporting import export_model, parse_size
from weaksam.prediction.onnx_runner import Model
from weaksam.prediction.predictor import Predictor
from weaksam.stages.retrain.settings import RetrainSettings

FIRST = "import sys, weaksam; print(len(weaksam.load(sys.argv[1], device='cpu').predict(sys.argv[2])))"
REPEATS, PHOTOS = 5, 10
NUM_CLASSES = 20


def untrained() -> Checkpoint:
    """The default detector of the retrain stage with untrained weights."""
    torch.manual_seed(0)
    settings, backbone = RetrainSettings(), used_backbone(BackboneSettings())
    header = CheckpointHeader(
        architecture="faster_rcnn",
        classes=tuple(f"class {label}" for label in range(NUM_CLASSES)),
        category_ids=tuple(range(1, NUM_CLASSES + 1)),
        backbone=backbone,
        detector=used_settings(settings),
    )
    return Checkpoint(header, settings, build_faster_rcnn(backbone, settings, NUM_CLASSES).state_dict())


def start(weights: Path, photo: Path) -> None:
    """Print the median seconds of `REPEATS` new processes that predict on one photo."""
    walls, cpus = [], []
    for repeat in range(REPEATS + 1):
        before, began = os.times(), time.perf_counter()
        subprocess.run([sys.executable, "-c", FIRST, str(weights), str(photo)], check=True, capture_output=True)
        after = os.times()
        if repeat:  # the first one reads the files
            walls.append(time.perf_counter() - began)
            cpus.append(after.children_user + after.children_system - before.children_user - before.children_system)
    print(f"first prediction in a new process, median of {REPEATS}: {median(walls):.2f} s, {median(cpus):.2f} CPU s")
    print(f"range: {min(walls):.2f} to {max(walls):.2f} s, {min(cpus):.2f} to {max(cpus):.2f} CPU s")


def timed(detect: Callable[[], object]) -> tuple[float, float]:
    """Wall and CPU milliseconds of one call."""
    wall, cpu = time.perf_counter(), time.process_time()
    detect()
    return 1000 * (time.perf_counter() - wall), 1000 * (time.process_time() - cpu)


def onnx(checkpoint: Checkpoint, photo: Path, size: tuple[int, int] | None) -> None:
    """Export, and print parity, size, and a photo's milliseconds by torch and by ONNX Runtime, one thread each."""
    torch.set_num_threads(1)
    image = read_image(photo)
    with tempfile.TemporaryDirectory() as folder:
        exported = export_model(checkpoint, Path(folder), size=size, photos=[image])
        print(exported)
        predictor, model = Predictor(seen_once(checkpoint), device="cpu"), Model(folder, threads=1)
        ways: dict[str, Callable[[], object]] = {
            "torch": lambda: predictor.detect([image]),
            "onnxruntime": lambda: model.detect(image),
        }
        times: dict[str, list[tuple[float, float]]] = {name: [] for name in ways}
        for repeat in range(PHOTOS + 1):
            for name, detect in ways.items():
                spent = timed(detect)
                times[name] += [spent] if repeat else []
    for name, of_way in times.items():
        wall, cpu = (median(column) for column in zip(*of_way, strict=True))
        print(f"{name}: {wall:.0f} ms a photo, {cpu:.0f} CPU ms (median of {PHOTOS}, one thread)")


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("start", "onnx"))
    parser.add_argument("--weights", type=Path)
    parser.add_argument("--photo", type=Path, required=True)
    parser.add_argument("--size")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        weights = arguments.weights or Path(folder) / "checkpoint.safetensors"
        if arguments.weights is None:
            untrained().write(weights)
        if arguments.what == "start":
            start(weights, arguments.photo)
        else:
            onnx(read_checkpoint(weights), arguments.photo, parse_size(arguments.size))


if __name__ == "__main__":
    main()
